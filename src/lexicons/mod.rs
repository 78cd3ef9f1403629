//! The server's own lexicon documents, compiled into the binary and published as they stand.
//!
//! They are the contract: the tests validate every reply against them. The document of a method lies beside its endpoint in `src/api`;
//! documents that belong to no method lie here. Requests are checked where they are decoded, not here.

pub(crate) mod openapi;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::api::ROUTES;
use crate::nsid;

/// Documents that belong to no method: shared shapes and permission sets.
const SHARED: [&str; 3] = [include_str!("defs.json"), include_str!("auth_full.json"), include_str!("auth_send.json")];

static DOCUMENTS: LazyLock<Vec<(&str, &str)>> = LazyLock::new(|| {
    let texts = ROUTES.iter().map(|route| route.lexicon).chain(SHARED);
    let mut documents: Vec<_> = texts.map(|text| (nsid::of(text), text)).collect();
    documents.sort_unstable();
    documents
});

/// Returns every document, its NSID and its JSON text, in the order of the NSIDs.
pub fn documents() -> &'static [(&'static str, &'static str)] {
    &DOCUMENTS
}

/// Returns the JSON text of one document, `None` if there is no such document.
pub fn find(nsid: &str) -> Option<&'static str> {
    documents().iter().find(|(id, _)| *id == nsid).map(|(_, text)| *text)
}

/// Returns the record that publishes a document in a repository, under its NSID in the collection `com.atproto.lexicon.schema`
/// (<https://atproto.com/specs/lexicon#lexicon-publication-and-resolution>).
pub fn record(text: &str) -> Value {
    let mut record: Value = serde_json::from_str(text).expect("documents are part of the build and tested to parse");
    record["$type"] = "com.atproto.lexicon.schema".into();
    record
}

/// Returns the index of the documents: for each its `nsid`, its `type` (`procedure`, `query`, `subscription`, `permission-set`, or `defs`
/// for shared shapes), the `path` under which the server publishes it, and for a method how to `call` it. The entry of the shared shapes
/// has their `description`, which says how to sign in.
pub fn index() -> Value {
    let entries = documents().iter().map(|(nsid, text)| {
        let document: Value = serde_json::from_str(text).expect("documents are part of the build and tested to parse");
        let kind = document["defs"]["main"]["type"].as_str().unwrap_or("defs");
        let mut entry = json!({ "nsid": nsid, "type": kind, "path": format!("/lexicons/{nsid}.json") });
        match kind {
            "query" | "subscription" => entry["call"] = format!("GET /xrpc/{nsid}").into(),
            "procedure" => entry["call"] = format!("POST /xrpc/{nsid}").into(),
            "defs" => entry["description"] = document["description"].clone(),
            _ => {}
        }
        entry
    });
    Value::Array(entries.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::mls::{DEFAULT_SUITE, MAX_MLS_BYTES, SUITES};

    fn parsed() -> Vec<(&'static str, Value)> {
        documents()
            .iter()
            .map(|(nsid, text)| (*nsid, serde_json::from_str(text).unwrap_or_else(|why| panic!("{nsid}: {why}"))))
            .collect()
    }

    /// Calls `visit` on every object inside `value`, itself included.
    fn walk(value: &Value, visit: &mut impl FnMut(&serde_json::Map<String, Value>)) {
        match value {
            Value::Object(fields) => {
                visit(fields);
                fields.values().for_each(|field| walk(field, visit));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(item, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_document_parses_and_names_itself() {
        for (nsid, document) in parsed() {
            assert_eq!(document["id"], nsid);
            assert_eq!(document["lexicon"], 1, "{nsid}");
        }
    }

    #[test]
    fn documents_are_in_the_order_of_their_names_and_each_there_once() {
        assert!(documents().is_sorted_by(|(one, _), (other, _)| one < other));
    }

    /// A file without a row is neither compiled nor published.
    #[test]
    fn every_file_of_a_method_has_its_row_and_its_name() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let files = |folder: &Path, extension: &str| -> Vec<PathBuf> {
            let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
        };
        let named = |paths: Vec<PathBuf>| -> BTreeSet<String> {
            paths.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
        };
        let areas = std::fs::read_dir(source.join("api")).unwrap().map(|entry| entry.unwrap().path());
        let areas: Vec<_> = areas.filter(|path| path.is_dir()).collect();
        let methods: BTreeSet<_> = ROUTES.iter().map(|route| in_snake_case(route.method())).collect();
        for extension in ["rs", "json"] {
            assert_eq!(named(areas.iter().flat_map(|area| files(area, extension)).collect()), methods, "{extension}");
        }
        let shared: BTreeSet<_> = SHARED.map(|text| in_snake_case(nsid::method(nsid::of(text)))).into();
        assert_eq!(named(files(&source.join("lexicons"), "json")), shared);
    }

    fn in_snake_case(name: &str) -> String {
        let letters = name.chars().flat_map(|letter| {
            [letter.is_uppercase().then_some('_'), Some(letter.to_ascii_lowercase())].into_iter().flatten()
        });
        letters.collect()
    }

    /// A client that reads the lexicon asks for no suite that is refused.
    #[test]
    fn the_documents_name_the_suites_of_the_table_and_no_others() {
        let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
        let mut found = 0;
        for (nsid, document) in parsed() {
            walk(&document, &mut |fields| {
                let known = fields.get("knownValues").and_then(Value::as_array);
                if let Some(known) = known.filter(|known| known[0] == DEFAULT_SUITE) {
                    assert_eq!(*known, names, "{nsid}");
                    found += 1;
                }
            });
        }
        assert!(found >= 2, "{found}");
    }

    #[test]
    fn every_ref_resolves() {
        let targets: BTreeSet<String> = parsed()
            .iter()
            .flat_map(|(nsid, document)| {
                document["defs"].as_object().unwrap().keys().map(move |name| format!("{nsid}#{name}"))
            })
            .collect();
        for (nsid, document) in parsed() {
            walk(&document, &mut |fields| {
                if fields.get("type").is_some_and(|kind| kind == "ref") {
                    let target = fields["ref"].as_str().unwrap();
                    let full = if target.starts_with('#') { format!("{nsid}{target}") } else { target.to_owned() };
                    assert!(targets.contains(&full), "{nsid}: {target}");
                }
            });
        }
    }

    /// One hub supplies both streams, so a client that can read one can read the other.
    #[test]
    fn both_streams_of_events_have_the_same_events() {
        let defs = |name: &str| -> Value {
            let document = find(&format!("blue.catbird.mls.{name}")).unwrap();
            serde_json::from_str::<Value>(document).unwrap()["defs"].take()
        };
        let (sse, socket) = (defs("streamConvoEvents"), defs("subscribeConvoEvents"));
        let mut refs = sse["main"]["output"]["schema"]["refs"].as_array().unwrap().clone();
        for name in &refs {
            let name = name.as_str().unwrap().trim_start_matches('#');
            assert_eq!(sse[name], socket[name], "{name}");
        }
        refs.push(json!("#pongEvent"));
        assert_eq!(&refs, socket["main"]["message"]["schema"]["refs"].as_array().unwrap());
    }

    /// Conflict results have the same fields in all methods, except for the GroupInfo of external commits, and the output declares the
    /// fields of both results.
    #[test]
    fn results_of_conflicts_are_those_of_their_method() {
        let mut told = Vec::new();
        for (nsid, document) in parsed() {
            let defs = &document["defs"];
            let Some(stale) = defs.get("stale") else { continue };
            assert!(defs["main"]["input"]["schema"]["properties"]["conflict"].is_object(), "{nsid}");
            let mut both = defs["accepted"]["properties"].as_object().unwrap().clone();
            both.extend(stale["properties"].as_object().unwrap().clone());
            assert_eq!(&Value::Object(both), &defs["main"]["output"]["schema"]["properties"], "{nsid}");
            let mut stale = stale.clone();
            stale["properties"].as_object_mut().unwrap().remove("groupInfo");
            told.push(stale);
        }
        assert!(told.len() >= 4 && told.iter().all(|stale| *stale == told[0]), "{told:?}");
    }

    #[test]
    fn every_required_field_is_declared_and_every_field_described() {
        for (nsid, document) in parsed() {
            walk(&document, &mut |fields| {
                let Some(properties) = fields.get("properties") else { return };
                // A shape without required fields leaves the list out.
                for name in fields.get("required").and_then(Value::as_array).into_iter().flatten() {
                    assert!(properties.get(name.as_str().unwrap()).is_some(), "{nsid}: {name}");
                }
                for (name, field) in properties.as_object().unwrap() {
                    let told = field["type"] == "ref" || field["description"].is_string();
                    assert!(told, "{nsid}: {name} has no description");
                }
            });
        }
    }

    #[test]
    fn every_method_describes_its_errors_and_repeats_no_common_one() {
        let defs: Value = serde_json::from_str(find("blue.catbird.mls.defs").unwrap()).unwrap();
        let common = defs["defs"]["errorReply"]["properties"]["error"]["knownValues"].as_array().unwrap().clone();
        let is_method = |document: &Value| document["defs"]["main"]["errors"].is_array();
        for (nsid, document) in parsed().into_iter().filter(|(_, document)| is_method(document)) {
            for error in document["defs"]["main"]["errors"].as_array().unwrap() {
                assert!(error["description"].is_string(), "{nsid}: {}", error["name"]);
                assert!(!common.contains(&error["name"]), "{nsid}: {}", error["name"]);
            }
        }
    }

    #[test]
    fn a_record_is_the_document_and_its_type() {
        for (nsid, text) in documents() {
            let mut record = record(text);
            assert_eq!((&record["$type"], &record["id"]), (&json!("com.atproto.lexicon.schema"), &json!(nsid)));
            record.as_object_mut().unwrap().remove("$type");
            assert_eq!(record, serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn permission_sets_grant_methods_of_this_service() {
        let parsed = parsed();
        let of_kind = |wanted: &[&str]| -> BTreeSet<&str> {
            let kind =
                |document: &Value| wanted.contains(&document["defs"]["main"]["type"].as_str().unwrap_or_default());
            parsed.iter().filter(|(_, document)| kind(document)).map(|(nsid, _)| *nsid).collect()
        };
        // A subscription takes a ticket, not a token, so it needs no permission.
        let callable = of_kind(&["query", "procedure"]);
        for (nsid, document) in
            parsed.iter().filter(|(_, document)| document["defs"]["main"]["type"] == "permission-set")
        {
            let main = &document["defs"]["main"];
            assert!(main["title"].is_string() && main["detail"].is_string(), "{nsid}");
            let permissions = main["permissions"].as_array().unwrap();
            let [permission] = &permissions[..] else { panic!("{nsid}: {permissions:?}") };
            assert_eq!((&permission["type"], &permission["resource"]), (&json!("permission"), &json!("rpc")), "{nsid}");
            assert_eq!(permission["inheritAud"], true, "{nsid}");
            let granted: BTreeSet<&str> =
                permission["lxm"].as_array().unwrap().iter().map(|lxm| lxm.as_str().unwrap()).collect();
            assert!(granted.is_subset(&callable), "{nsid}: {granted:?}");
            // A client that reads Welcomes has to confirm them, or they stay.
            let [opens, confirms] =
                ["getWelcome", "confirmWelcome"].map(|method| granted.contains(&*format!("blue.catbird.mls.{method}")));
            assert_eq!(opens, confirms, "{nsid}");
            assert!(
                !nsid.ends_with("authFull") || granted == callable,
                "{nsid} lacks {:?}",
                callable.difference(&granted)
            );
        }
        assert_eq!(of_kind(&["permission-set"]).len(), 2);
    }

    /// Inputs may have lower limits than outputs: stored data may be older than a limit.
    #[test]
    fn inputs_have_the_limits_of_the_code() {
        let mut large = Vec::new();
        for (nsid, document) in parsed() {
            walk(&document["defs"]["main"]["input"], &mut |field| {
                let most = match field.get("type").and_then(Value::as_str) {
                    Some("string") => MAX_MLS_BYTES.div_ceil(3) * 4,
                    Some("bytes") => MAX_MLS_BYTES,
                    _ => return,
                };
                if field.get("maxLength").and_then(Value::as_u64).is_some_and(|length| length > 1 << 20) {
                    assert_eq!(field["maxLength"], most, "{nsid}");
                    large.push(nsid);
                }
            });
        }
        let methods = [
            ("addMembers", 3),
            ("createConvo", 2),
            ("leaveConvo", 2),
            ("processExternalCommit", 2),
            ("removeMember", 2),
            ("resetConvo", 3),
            ("sendMessage", 1),
            ("submitCommit", 3),
            ("updateGroupInfo", 1),
        ];
        let expected: Vec<_> =
            methods.iter().flat_map(|(method, fields)| vec![format!("blue.catbird.mls.{method}"); *fields]).collect();
        assert_eq!(large, expected);
    }

    #[test]
    fn parameters_know_the_same_cipher_suites_as_bodies() {
        let suites: BTreeSet<String> = parsed()
            .iter()
            .flat_map(|(_, document)| {
                [
                    &document["defs"]["cipherSuite"]["knownValues"],
                    &document["defs"]["main"]["parameters"]["properties"]["cipherSuite"]["knownValues"],
                ]
                .map(Value::to_string)
            })
            .filter(|list| list != "null")
            .collect();
        assert_eq!(suites.len(), 1, "{suites:?}");
    }

    /// An `enum` could never get another value, because readers may refuse values that they do not know.
    #[test]
    fn no_set_of_values_is_closed_for_ever() {
        for (nsid, document) in parsed() {
            walk(&document, &mut |fields| assert!(!fields.contains_key("enum"), "{nsid}: {fields:?}"));
        }
    }

    #[test]
    fn the_index_says_where_each_document_is() {
        let index = index();
        assert_eq!(index.as_array().unwrap().len(), documents().len());
        assert!(index.as_array().unwrap().contains(&json!({
            "nsid": "blue.catbird.mls.getEpoch",
            "type": "query",
            "path": "/lexicons/blue.catbird.mls.getEpoch.json",
            "call": "GET /xrpc/blue.catbird.mls.getEpoch",
        })));
        let shared = index.as_array().unwrap().iter().find(|entry| entry["type"] == "defs").unwrap();
        for word in ["/xrpc/<NSID>", "Authorization: Bearer", "iss", "aud", "lxm", "jti", "ES256K", "getServiceAuth"] {
            assert!(
                shared["description"].as_str().unwrap().contains(word),
                "{word}: this document alone is enough for a client"
            );
        }
        assert_eq!(find("blue.catbird.mls.noSuchMethod"), None);
    }
}
