//! The server's own lexicon documents, one file per method, compiled into the binary.
//!
//! They are the contract: the server publishes them as they stand here, and the tests hold every reply against them. This
//! module knows no method beyond its document and checks no request; decoding does that.

use serde_json::{Value, json};

macro_rules! documents {
    ($($name:literal)*) => {
        &[$((concat!("blue.catbird.mls.", $name), include_str!(concat!($name, ".json"))),)*]
    };
}

static DOCUMENTS: &[(&str, &str)] = documents![
    "addMembers"
    "confirmWelcome"
    "createConvo"
    "defs"
    "getCommits"
    "getConvos"
    "getEpoch"
    "getKeyPackages"
    "getMailbox"
    "getMessages"
    "getSubscriptionTicket"
    "getWelcome"
    "leaveConvo"
    "publishKeyPackage"
    "sendMessage"
    "sendTypingIndicator"
    "setMailbox"
    "streamConvoEvents"
    "subscribeConvoEvents"
    "updateCursor"
    "updateRead"
];

/// Every document: its NSID and its JSON text, in the order of the NSIDs.
pub fn documents() -> &'static [(&'static str, &'static str)] {
    DOCUMENTS
}

/// The JSON text of one document, `None` if there is no such document.
pub fn find(nsid: &str) -> Option<&'static str> {
    DOCUMENTS.iter().find(|(id, _)| *id == nsid).map(|(_, text)| *text)
}

/// What there is to fetch: for each document its `nsid`, its `type` (`procedure`, `query`, `subscription`, or `defs` for shared shapes) and
/// the `path` under which the server publishes it.
pub fn index() -> Value {
    let entries = DOCUMENTS.iter().map(|(nsid, text)| {
        let document: Value = serde_json::from_str(text).expect("documents are part of the build and tested to parse");
        let kind = document["defs"]["main"]["type"].as_str().unwrap_or("defs");
        json!({ "nsid": nsid, "type": kind, "path": format!("/lexicons/{nsid}.json") })
    });
    Value::Array(entries.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

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
    fn every_file_beside_this_one_is_published_once_and_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/lexicons");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| entry.unwrap().file_name().to_str().unwrap().strip_suffix(".json").map(str::to_owned))
            .map(|name| format!("blue.catbird.mls.{name}"))
            .collect();
        assert!(documents().iter().map(|(nsid, _)| *nsid).eq(files.iter()), "{files:?}");
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

    /// One hub supplies both, so a client that can read one can read the other.
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

    /// Whoever is told by a result has the same fields, whatever the method, and the output declares those of both results.
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
            told.push(stale.clone());
        }
        assert!(told.len() == 3 && told.iter().all(|stale| *stale == told[0]), "{told:?}");
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
        for (nsid, document) in parsed().into_iter().filter(|(nsid, _)| !nsid.ends_with(".defs")) {
            for error in document["defs"]["main"]["errors"].as_array().unwrap() {
                assert!(error["description"].is_string(), "{nsid}: {}", error["name"]);
                assert!(!common.contains(&error["name"]), "{nsid}: {}", error["name"]);
            }
        }
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

    #[test]
    fn the_index_says_where_each_document_is() {
        let index = index();
        assert_eq!(index.as_array().unwrap().len(), documents().len());
        assert!(index.as_array().unwrap().contains(&json!({
            "nsid": "blue.catbird.mls.getEpoch",
            "type": "query",
            "path": "/lexicons/blue.catbird.mls.getEpoch.json",
        })));
        assert!(index.as_array().unwrap().iter().any(|entry| entry["type"] == "defs"));
        assert_eq!(find("blue.catbird.mls.noSuchMethod"), None);
    }
}
