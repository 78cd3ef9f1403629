//! Invalid values of a field, made from its schema. Lexicons describe only in words which strings are ids, hashes or
//! base64, so those fields are known by name.

use catbird_client::xrpc::bytes_value;
use serde_json::{Value, json};

use crate::examples::{Field, resolved};

/// Fields with MLS data in base64.
const BASE64: [&str; 6] = ["commit", "externalCommit", "groupInfo", "keyPackage", "proposal", "welcomeMessage"];
/// Fields with a format that only the description defines: ids, hashes, cursors and URLs.
const FORMED: [&str; 11] = [
    "commitHash",
    "convoId",
    "cursor",
    "deviceId",
    "groupId",
    "hash",
    "keyPackageHash",
    "messageId",
    "msgId",
    "pendingAdditionId",
    "url",
];
/// Fields that are compared with other strings and never stored, so any characters are valid.
const COMPARED: [&str; 1] = ["serverIncarnation"];
/// Maximum length of a string or list that a test makes too long; bodies of that size have their own tests.
const MAX_LENGTH: u64 = 1 << 20;

/// Strings without a format.
const SHAPELESS: [&str; 8] =
    ["", "\0", "🐈", "'; drop table members; --", "a b", "%00", "../../etc/passwd", "\u{202e}"];

fn is_formed(name: &str, schema: &Value) -> bool {
    schema["format"].is_string() || schema["knownValues"].is_array() || FORMED.contains(&name)
}

/// Returns a limit of a schema.
fn length(schema: &Value, bound: &str) -> Option<usize> {
    schema[bound].as_u64().filter(|length| *length <= MAX_LENGTH).map(|length| length as usize)
}

/// Returns JSON values that a field refuses. `good` is one that it accepts, or null.
pub fn wrong(name: &str, schema: &Value, good: &Value) -> Vec<Value> {
    let kind = schema["type"].as_str().unwrap();
    let mut values = match kind {
        "boolean" => vec![json!("true"), json!("")],
        "integer" => vec![
            json!("1"),
            json!(-1),
            json!(1_000_000_000_000_000_000i64),
            json!(u64::MAX),
            json!(1u64 << 53),
            json!(1.5),
            json!(1e300),
        ],
        "bytes" => not_bytes(),
        "string" if BASE64.contains(&name) => not_bytes(),
        "string" if is_formed(name, schema) => {
            let long = "x".repeat(100_000);
            SHAPELESS.iter().copied().chain([&*long]).map(|text| json!(text)).collect()
        }
        "string" if COMPARED.contains(&name) => vec![json!("x".repeat(100_000))],
        "string" => vec![json!("\0"), json!("x".repeat(100_000))],
        "array" => not_a_list(name, schema, good),
        "object" => not_an_object(schema, good),
        other => panic!("{name} has the type {other}"),
    };
    values.extend(out_of_bounds(name, schema));
    if kind != "boolean" {
        values.push(json!(true));
    }
    if kind != "integer" {
        values.extend([json!(7), json!(1_000_000_000_000_000_000i64), json!(-0.5)]);
    }
    if kind != "object" {
        values.extend([json!({}), json!({ "a": { "b": [] } })]);
    }
    if !matches!(kind, "array" | "object") {
        values.extend([json!([]), json!([[]])]);
    }
    values
}

/// Returns values just beyond the limits of a schema.
fn out_of_bounds(name: &str, schema: &Value) -> Vec<Value> {
    let mut values = Vec::new();
    match schema["type"].as_str().unwrap() {
        "integer" => {
            values.extend(schema["minimum"].as_i64().map(|least| json!(least - 1)));
            values.extend(schema["maximum"].as_i64().map(|most| json!(most + 1)));
        }
        "string" => {
            values.extend(length(schema, "maxLength").map(|most| json!("x".repeat(most + 1))));
            // Lexicons count bytes in UTF-8.
            let most = length(schema, "maxLength").filter(|_| !COMPARED.contains(&name));
            values.extend(most.map(|most| json!("🐈".repeat(most / 4 + 1))));
            values.extend(length(schema, "minLength").map(|least| json!("x".repeat(least - 1))));
            if schema["knownValues"].is_array() {
                values.push(json!("noSuchValue"));
            }
        }
        "bytes" => {
            values.extend(length(schema, "maxLength").map(|most| bytes_value(&vec![7; most + 1])));
            values.extend(length(schema, "minLength").map(|least| bytes_value(&vec![7; least - 1])));
        }
        _ => {}
    }
    values
}

fn not_bytes() -> Vec<Value> {
    vec![
        json!("not base64"),
        json!("A"),
        json!("AA=A"),
        json!("+-AA"),
        json!("AAA\n"),
        json!("\0"),
        json!("🐈"),
        json!(""),
        json!({ "$bytes": "" }),
        json!({ "$bytes": "A" }),
        json!({ "$bytes": 1 }),
        json!({ "$bytes": null }),
        json!({ "$bytes": { "$bytes": "AA" } }),
        json!({ "$bytes": "AA", "more": 1 }),
        json!({ "bytes": "AA" }),
        json!([0, 1, 2]),
    ]
}

fn not_a_list(name: &str, schema: &Value, good: &Value) -> Vec<Value> {
    let items = resolved(&schema["items"]);
    let (item, of_objects) = (&good[0], items["type"] == "object");
    let bad = wrong(name, &items, item);
    let mut values = vec![json!("did:plc:x"), json!([null]), json!([[item]]), json!([1])];
    if !of_objects {
        values.push(json!([{ "did": item }]));
    }
    values.extend(bad.into_iter().map(|item| json!([item])));
    values.push(json!(vec![item; 200_000]));
    values.extend(length(schema, "maxLength").map(|most| (0..=most).map(|n| another(item, n)).collect()));
    values.extend(length(schema, "minLength").map(|least| json!(vec![item; least - 1])));
    values
}

/// Returns an element like this one of a list, but different.
fn another(item: &Value, n: usize) -> Value {
    match item.as_object() {
        Some(fields) => fields.iter().map(|(name, value)| (name.clone(), another(value, n))).collect(),
        None if item.as_str().is_some_and(|text| text.starts_with("did:")) => json!(format!("did:plc:other{n}")),
        None => item.clone(),
    }
}

fn not_an_object(schema: &Value, good: &Value) -> Vec<Value> {
    let mut values = vec![json!("x")];
    for field in Field::of(schema) {
        for bad in wrong(&field.name, &field.schema, &good[&field.name]) {
            let mut object = good.clone();
            object[&field.name] = bad;
            values.push(object);
        }
        if field.required {
            let mut object = good.clone();
            object.as_object_mut().unwrap().remove(&field.name);
            values.push(object.clone());
            object[&field.name] = Value::Null;
            values.push(object);
        }
    }
    if Field::of(schema).iter().any(|field| field.required) {
        values.push(json!({}));
    }
    values
}

/// Returns strings of a query that a parameter refuses.
pub fn wrong_texts(name: &str, schema: &Value) -> Vec<String> {
    let of_list = resolved(&schema["items"]);
    let schema = if schema["type"] == "array" { &of_list } else { schema };
    let mut texts = SHAPELESS.map(str::to_owned).to_vec();
    texts.extend(["../..", "[]", "{}", "null"].map(str::to_owned));
    texts.push("x".repeat(1_000));
    match schema["type"].as_str().unwrap() {
        // The text of a number may be a valid cursor.
        kind if kind == "integer" || name == "cursor" => {
            texts.extend(["-1", "1.5", "1e3", "0x1", "+", " 1", "1000000000000000000000000", "true"].map(str::to_owned))
        }
        "boolean" => texts.extend(["1", "0", "yes", "TRUE"].map(str::to_owned)),
        _ => {}
    }
    let beyond = out_of_bounds(name, schema);
    texts.extend(beyond.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    // A word may be a valid id.
    if ["convoId", "convoIds", "deviceId"].contains(&name) {
        texts.retain(|text| text != "null");
    }
    texts
}
