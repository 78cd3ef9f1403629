//! Validates requests, replies and errors against the server's own lexicon documents.
//!
//! It is stricter than AT Protocol requires of readers: a reply must not have undeclared fields, so that the documents
//! stay complete, and `$bytes` has exactly one form. Requests may have unknown fields, which the server ignores. A
//! document that uses a feature unknown to this validator is an error too.

mod bytes;
mod format;
mod value;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use catbird_server::lexicons;
use serde_json::{Value, json};

use value::Unknown;

pub use bytes::validate_bytes;

static OURS: LazyLock<Catalogue> = LazyLock::new(|| {
    Catalogue::new(lexicons::documents().iter().map(|(_, text)| serde_json::from_str(text).expect("documents parse")))
});

/// Validates `body` as a 200 reply of the method. The error names the offending field.
pub fn validate_output(nsid: &str, body: &Value) -> Result<(), String> {
    OURS.output(nsid, body)
}

/// Returns whether a successful reply of the method is bytes of any type.
pub fn sends_bytes(nsid: &str) -> bool {
    OURS.method(nsid).is_ok_and(|method| is_bytes(&method["output"]))
}

/// Validates `input` of the method: the body of a procedure; or the parameters of a query, or of a procedure whose body is bytes, as an
/// object of typed values.
pub fn validate_input(nsid: &str, input: &Value) -> Result<(), String> {
    OURS.input(nsid, input)
}

/// Validates `body` as an error reply: `defs#errorReply`, with an error name that the method declares or that is common
/// to all.
pub fn validate_error(nsid: &str, body: &Value) -> Result<(), String> {
    OURS.error(nsid, body)
}

/// Validates `event` as an event of the method's stream.
pub fn validate_event(nsid: &str, event: &Value) -> Result<(), String> {
    OURS.event(nsid, event)
}

/// Validates `value` against this definition, such as `blue.catbird.mls.defs#messageView`.
pub fn validate_def(reference: &str, value: &Value) -> Result<(), String> {
    let (home, schema) = OURS.resolve("", reference)?;
    OURS.check(&home, schema, value, "$", Unknown::Refused)
}

/// The definition to which a reference such as `blue.catbird.mls.defs#cipherSuite` leads.
pub fn resolve_def(reference: &str) -> Value {
    OURS.resolve("", reference).unwrap_or_else(|why| panic!("{why}")).1.clone()
}

/// Lexicon documents that refer to each other, by NSID.
pub struct Catalogue {
    documents: BTreeMap<String, Value>,
}

impl Catalogue {
    pub fn new(documents: impl IntoIterator<Item = Value>) -> Self {
        let named =
            documents.into_iter().map(|document| (document["id"].as_str().expect("an id").to_owned(), document));
        Self { documents: named.collect() }
    }

    pub fn output(&self, nsid: &str, body: &Value) -> Result<(), String> {
        let method = self.method(nsid)?;
        let schema = json_schema(method, "output").ok_or_else(|| format!("{nsid} declares no output"))?;
        // An output with two results has no field required for both; each result has its own.
        match self.documents[nsid]["defs"].get("accepted") {
            Some(accepted) if body.get("$type").is_none() => self.check(nsid, accepted, body, "$", Unknown::Refused),
            Some(_) => {
                let results = json!({ "type": "union", "closed": true, "refs": ["#accepted", "#stale"] });
                self.check(nsid, &results, body, "$", Unknown::Refused)
            }
            None => self.check(nsid, schema, body, "$", Unknown::Refused),
        }
    }

    pub fn event(&self, nsid: &str, event: &Value) -> Result<(), String> {
        let method = self.method(nsid)?;
        let schema = match method["type"].as_str() {
            Some("subscription") => &method["message"]["schema"],
            _ if method["output"]["encoding"] == "text/event-stream" => &method["output"]["schema"],
            _ => return Err(format!("{nsid} declares no stream")),
        };
        self.check(nsid, schema, event, "$", Unknown::Refused)
    }

    pub fn input(&self, nsid: &str, input: &Value) -> Result<(), String> {
        let method = self.method(nsid)?;
        let schema = match method["type"].as_str() {
            Some("query" | "subscription") => method.get("parameters"),
            _ if is_bytes(&method["input"]) => method.get("parameters"),
            _ => json_schema(method, "input"),
        };
        let schema = schema.ok_or_else(|| format!("{nsid} declares no input"))?;
        self.check(nsid, schema, input, "$", Unknown::Ignored)
    }

    pub fn error(&self, nsid: &str, body: &Value) -> Result<(), String> {
        let method = self.method(nsid)?;
        let (home, reply) = self.resolve(nsid, "blue.catbird.mls.defs#errorReply")?;
        self.check(&home, reply, body, "$", Unknown::Refused)?;
        let name = &body["error"];
        let common = list(&reply["properties"]["error"]["knownValues"]);
        let own = list(&method["errors"]).iter().map(|error| &error["name"]);
        if common.iter().chain(own).any(|known| known == name) {
            Ok(())
        } else {
            Err(format!("$.error: {nsid} does not declare {name}"))
        }
    }

    fn method(&self, nsid: &str) -> Result<&Value, String> {
        let (_, main) = self.resolve(nsid, nsid)?;
        match main["type"].as_str() {
            Some("query" | "procedure" | "subscription") => Ok(main),
            other => Err(format!("{nsid} is not a method but {other:?}")),
        }
    }

    /// Resolves `reference`, written in the document `home`, to its document and definition.
    fn resolve(&self, home: &str, reference: &str) -> Result<(String, &Value), String> {
        let (nsid, name) = match reference.split_once('#') {
            Some(("", name)) => (home, name),
            Some((nsid, name)) => (nsid, name),
            None => (reference, "main"),
        };
        let found = self.documents.get(nsid).and_then(|document| document["defs"].get(name));
        found.map(|schema| (nsid.to_owned(), schema)).ok_or_else(|| format!("no document defines {nsid}#{name}"))
    }
}

fn is_bytes(side: &Value) -> bool {
    side["encoding"] == "*/*"
}

fn json_schema<'a>(method: &'a Value, side: &str) -> Option<&'a Value> {
    let body = method.get(side)?;
    if body["encoding"] == "application/json" { body.get("schema") } else { None }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
