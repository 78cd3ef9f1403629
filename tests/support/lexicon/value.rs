//! Validation of one JSON value against one lexicon schema.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::{Map, Value};

use super::{Catalogue, format, list};

/// Treatment of fields that a schema does not declare.
#[derive(Clone, Copy, PartialEq)]
pub enum Unknown {
    Refused,
    Ignored,
}

impl Catalogue {
    /// Checks `value`, found at `path`, against a `schema` written in the document `home`.
    pub(super) fn check(
        &self,
        home: &str,
        schema: &Value,
        value: &Value,
        path: &str,
        unknown: Unknown,
    ) -> Result<(), String> {
        let at = |why: String| Err(format!("{path}: {why}"));
        let kind = schema["type"].as_str().unwrap_or_default();
        if let Some(keyword) = unsupported_keyword(kind, schema) {
            return at(format!("the schema of type {kind:?} uses {keyword:?}, which this validator does not know"));
        }
        let fits = match (kind, value) {
            ("ref", _) => {
                let (home, target) = self.resolve(home, text(&schema["ref"]))?;
                return self.check(&home, target, value, path, unknown);
            }
            ("object" | "params", Value::Object(fields)) => {
                return self.check_object(home, schema, fields, path, unknown);
            }
            ("union", Value::Object(fields)) => return self.check_union(home, schema, fields, path, unknown),
            ("array", Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    self.check(home, &schema["items"], item, &format!("{path}[{index}]"), unknown)?;
                }
                length(schema, items.len(), "items")
            }
            ("string", Value::String(text)) => string(schema, text),
            ("integer", Value::Number(number)) => integer(schema, number),
            ("bytes", _) => bytes(schema, value),
            ("boolean", Value::Bool(_)) | ("unknown", Value::Object(_)) => Ok(()),
            _ => Err(format!("{} where the schema asks for {kind}", excerpt(value))),
        };
        fits.or_else(at)
    }

    fn check_object(
        &self,
        home: &str,
        schema: &Value,
        fields: &Map<String, Value>,
        path: &str,
        unknown: Unknown,
    ) -> Result<(), String> {
        for name in list(&schema["required"]) {
            if !fields.contains_key(text(name)) {
                return Err(format!("{path}.{}: required, but missing", text(name)));
            }
        }
        for (name, value) in fields {
            let path = format!("{path}.{name}");
            match schema["properties"].get(name) {
                Some(_) if value.is_null() && list(&schema["nullable"]).iter().any(|nullable| nullable == name) => {}
                Some(schema) => self.check(home, schema, value, &path, unknown)?,
                None if unknown == Unknown::Refused => return Err(format!("{path}: not declared")),
                None => {}
            }
        }
        Ok(())
    }

    /// Checks the member that `$type` names. An open union allows others in requests only: a reply must be documented.
    fn check_union(
        &self,
        home: &str,
        schema: &Value,
        fields: &Map<String, Value>,
        path: &str,
        unknown: Unknown,
    ) -> Result<(), String> {
        let Some(Value::String(name)) = fields.get("$type") else {
            return Err(format!("{path}.$type: required in a union, but missing"));
        };
        for reference in list(&schema["refs"]) {
            let full = if text(reference).starts_with('#') {
                format!("{home}{}", text(reference))
            } else {
                text(reference).to_owned()
            };
            if full.trim_end_matches("#main") == name {
                let (home, target) = self.resolve(home, &full)?;
                let mut rest = fields.clone();
                rest.remove("$type");
                return self.check(&home, target, &Value::Object(rest), path, unknown);
            }
        }
        let open = schema["closed"] != true && unknown == Unknown::Ignored;
        if open { Ok(()) } else { Err(format!("{path}.$type: {name:?} is not in the union")) }
    }
}

fn string(schema: &Value, value: &str) -> Result<(), String> {
    length(schema, value.len(), "bytes")?;
    if let Some(options) = schema.get("enum")
        && !list(options).iter().any(|option| option == value)
    {
        return Err(format!("{value:?} is none of {options}"));
    }
    match schema.get("format") {
        Some(format) => format::check(text(format), value),
        None => Ok(()),
    }
}

fn integer(schema: &Value, number: &serde_json::Number) -> Result<(), String> {
    let value = number.as_i64().ok_or_else(|| format!("{number} is not a 64-bit integer"))?;
    let below = schema["minimum"].as_i64().is_some_and(|minimum| value < minimum);
    let above = schema["maximum"].as_i64().is_some_and(|maximum| value > maximum);
    if below || above { Err(format!("{value} is out of range")) } else { Ok(()) }
}

/// Checks that bytes are `{"$bytes": …}` and nothing else, in the standard alphabet without padding.
fn bytes(schema: &Value, value: &Value) -> Result<(), String> {
    let only = value.as_object().filter(|fields| fields.len() == 1).and_then(|fields| fields.get("$bytes"));
    let Some(Value::String(encoded)) = only else {
        return Err(format!("{} where the schema asks for {{\"$bytes\": …}}", excerpt(value)));
    };
    let decoded = STANDARD_NO_PAD.decode(encoded).map_err(|why| format!("not unpadded standard base64: {why}"))?;
    length(schema, decoded.len(), "bytes")
}

fn length(schema: &Value, length: usize, unit: &str) -> Result<(), String> {
    let length = length as u64;
    let short = schema["minLength"].as_u64().is_some_and(|minimum| length < minimum);
    let long = schema["maxLength"].as_u64().is_some_and(|maximum| length > maximum);
    if short || long { Err(format!("{length} {unit} is out of range")) } else { Ok(()) }
}

/// Returns the first keyword of `schema` that is not supported. Without a known type, none is.
fn unsupported_keyword<'a>(kind: &str, schema: &'a Value) -> Option<&'a str> {
    let known: &[&str] = match kind {
        "ref" => &["ref"],
        "object" | "params" => &["required", "nullable", "properties"],
        "union" => &["refs", "closed"],
        "array" => &["items", "minLength", "maxLength"],
        "string" => &["format", "minLength", "maxLength", "enum", "knownValues", "default"],
        "integer" => &["minimum", "maximum", "default"],
        "bytes" => &["minLength", "maxLength"],
        "boolean" => &["default"],
        "unknown" => &[],
        _ => return Some("type"),
    };
    let keywords = schema.as_object()?.keys().map(String::as_str);
    keywords.into_iter().find(|keyword| !["type", "description"].contains(keyword) && !known.contains(keyword))
}

/// Returns a string of a schema.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a lexicon document holds {value} where a string belongs"))
}

/// Returns the beginning of a value, short enough for a test's output.
fn excerpt(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
