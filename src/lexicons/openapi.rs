//! The contract as one OpenAPI 3.1 document, for tools that do not read lexicons. It is generated from the lexicon documents and the
//! table of errors.
//!
//! JSON Schema counts characters where lexicons count bytes, so the limits of texts that are not ASCII differ.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::documents;
use crate::error::Code;

static TEXT: LazyLock<String> = LazyLock::new(|| document().to_string());

/// Returns the document as JSON text.
pub fn text() -> &'static str {
    &TEXT
}

fn document() -> Value {
    let documents: Vec<(&str, Value)> = documents()
        .iter()
        .map(|(nsid, text)| {
            (*nsid, serde_json::from_str(text).expect("documents are part of the build and tested to parse"))
        })
        .collect();
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for (nsid, document) in &documents {
        for (name, definition) in document["defs"].as_object().into_iter().flatten() {
            match definition["type"].as_str() {
                Some("query" | "procedure" | "subscription") => {
                    paths.insert(format!("/xrpc/{nsid}"), path(nsid, definition));
                }
                Some("permission-set") | None => {}
                Some(_) => _ = schemas.insert(component(nsid, &format!("#{name}")), schema(nsid, definition)),
            }
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Catbird MLS delivery service",
            "version": env!("CARGO_PKG_VERSION"),
            "description": documents.iter().find(|(nsid, _)| nsid.ends_with(".defs")).map(|(_, defs)| &defs["description"]),
        },
        "servers": [{ "url": "/" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "The description of this document says how to make one." } },
        },
    })
}

/// Returns the path item of a method, which has one operation.
fn path(nsid: &str, method: &Value) -> Value {
    let mut operation = json!({
        "operationId": nsid.rsplit('.').next(),
        "description": method["description"],
        "responses": responses(nsid, method),
    });
    let mut parameters: Vec<Value> = method["parameters"]["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, parameter)| {
            let is_required = is_required(&method["parameters"], name);
            let schema = schema(nsid, parameter);
            json!({ "name": name, "in": "query", "required": is_required, "description": parameter["description"], "schema": schema })
        })
        .collect();
    if is_bytes(&method["output"]) {
        parameters
            .extend(["Range", "If-Range", "If-None-Match"].map(
                |name| json!({ "name": name, "in": "header", "required": false, "schema": { "type": "string" } }),
            ));
    }
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some(input) = method.get("input") {
        let needed = is_bytes(input) || !input["schema"]["required"].as_array().is_none_or(Vec::is_empty);
        operation["requestBody"] = json!({ "required": needed, "content": content(nsid, input) });
    }
    match method["type"].as_str() {
        Some("procedure") => json!({ "post": operation }),
        Some("subscription") => {
            // The parameter `ticket` takes the place of a token.
            operation["security"] = json!([]);
            json!({ "get": operation })
        }
        _ => json!({ "get": operation }),
    }
}

fn is_required(object: &Value, name: &str) -> bool {
    object["required"].as_array().is_some_and(|required| required.iter().any(|one| one == name))
}

/// Returns whether the input or the output of a method is bytes of any type.
fn is_bytes(side: &Value) -> bool {
    side["encoding"] == "*/*"
}

/// Returns the content of the input or the output of a method.
fn content(nsid: &str, side: &Value) -> Value {
    let mut content = Map::new();
    if let Some(encoding) = side["encoding"].as_str() {
        // The schema of a stream describes each of its events, which OpenAPI cannot express.
        let described = match encoding {
            "application/json" => json!({ "schema": schema(nsid, &side["schema"]) }),
            // Bytes have no schema in OpenAPI 3.1.
            "*/*" => json!({}),
            _ => json!({ "schema": { "type": "string" } }),
        };
        content.insert(encoding.to_owned(), described);
    }
    content.into()
}

/// Returns the responses of a method: its success, and its own and the common errors by status.
fn responses(nsid: &str, method: &Value) -> Value {
    let mut responses = Map::new();
    match method["type"].as_str() {
        Some("subscription") => {
            responses.insert(
                "101".to_owned(),
                json!({ "description": "The WebSocket. The lexicon describes its messages." }),
            );
        }
        _ => {
            let well =
                json!({ "description": "The request was executed.", "content": content(nsid, &method["output"]) });
            if is_bytes(&method["output"]) {
                let mut part = well.clone();
                part["description"] = "The part that `Range` asks for.".into();
                responses.insert("206".to_owned(), part);
                for (status, why) in [
                    ("304", "The client has the content that `If-None-Match` names."),
                    ("307", "The content can be read at the address in `Location`, for a while."),
                ] {
                    responses.insert(status.to_owned(), json!({ "description": why }));
                }
            }
            responses.insert("200".to_owned(), well);
        }
    }
    let mut by_status = BTreeMap::<u16, Vec<String>>::new();
    let own = method["errors"].as_array().into_iter().flatten();
    let own = own.filter_map(|error| {
        let code = Code::ALL.iter().find(|code| error["name"] == code.name())?;
        Some((*code, error["description"].as_str().unwrap_or_default()))
    });
    for (code, why) in own.chain(Code::COMMON.iter().map(|code| (*code, ""))) {
        let told = if why.is_empty() { code.name().to_owned() } else { format!("{}: {why}", code.name()) };
        by_status.entry(code.status().as_u16()).or_default().push(told);
    }
    let reply = json!({ "$ref": "#/components/schemas/blue.catbird.mls.defs.errorReply" });
    for (status, names) in by_status {
        let content = json!({ "application/json": { "schema": reply } });
        responses.insert(status.to_string(), json!({ "description": names.join("\n"), "content": content }));
    }
    responses.into()
}

/// Returns the name of a definition among the components. `reference` is written as in the document `home`.
fn component(home: &str, reference: &str) -> String {
    let (nsid, name) = reference.split_once('#').unwrap_or((reference, "main"));
    format!("{}.{name}", if nsid.is_empty() { home } else { nsid })
}

fn reference(home: &str, to: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", component(home, to)) })
}

/// Converts a lexicon schema of the document `home` to JSON Schema.
fn schema(home: &str, of: &Value) -> Value {
    let mut made = match of["type"].as_str().unwrap_or_default() {
        "ref" => return reference(home, of["ref"].as_str().unwrap_or_default()),
        "union" => {
            let options = of["refs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|to| {
                let name = if to.starts_with('#') { format!("{home}{to}") } else { to.to_owned() };
                let kind = json!({ "required": ["$type"], "properties": { "$type": { "const": name } } });
                json!({ "allOf": [reference(home, to), kind] })
            });
            json!({ "oneOf": options.collect::<Vec<_>>() })
        }
        "object" => {
            let properties: Map<String, Value> = of["properties"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, property)| (name.clone(), schema(home, property)))
                .collect();
            json!({ "type": "object", "required": of.get("required").unwrap_or(&json!([])), "properties": properties })
        }
        "array" => {
            let mut list = json!({ "type": "array", "items": schema(home, &of["items"]) });
            copy(of, &mut list, &[("minLength", "minItems"), ("maxLength", "maxItems")]);
            list
        }
        "string" => {
            let mut text = json!({ "type": "string" });
            copy(
                of,
                &mut text,
                &[
                    ("minLength", "minLength"),
                    ("maxLength", "maxLength"),
                    ("knownValues", "examples"),
                    ("default", "default"),
                ],
            );
            match of["format"].as_str() {
                Some("did") => text["pattern"] = r"^did:[a-z]+:[a-zA-Z0-9._:%-]*[a-zA-Z0-9._-]$".into(),
                Some("datetime") => text["format"] = "date-time".into(),
                Some("uri" | "at-uri") => text["format"] = "uri".into(),
                _ => {}
            }
            text
        }
        "integer" => {
            let mut number = json!({ "type": "integer" });
            copy(of, &mut number, &[("minimum", "minimum"), ("maximum", "maximum"), ("default", "default")]);
            number
        }
        "bytes" => json!({
            "type": "object",
            "required": ["$bytes"],
            "properties": { "$bytes": { "type": "string", "contentEncoding": "base64" } },
        }),
        "boolean" => {
            let mut flag = json!({ "type": "boolean" });
            copy(of, &mut flag, &[("default", "default")]);
            flag
        }
        // `unknown` is any object.
        _ => json!({ "type": "object" }),
    };
    copy(of, &mut made, &[("description", "description")]);
    made
}

/// Copies the fields that are present, under other names.
fn copy(from: &Value, to: &mut Value, names: &[(&str, &str)]) {
    for (theirs, ours) in names {
        if let Some(value) = from.get(theirs) {
            to[*ours] = value.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 30);
        for reference in found {
            let place = reference.trim_start_matches('#');
            assert!(document.pointer(place).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_method_is_there_with_its_fields_and_errors() {
        let document = document();
        assert_eq!(document["paths"].as_object().unwrap().len(), crate::api::ROUTES.len());
        let create = &document["paths"]["/xrpc/blue.catbird.mls.createConvo"]["post"];
        assert_eq!(create["requestBody"]["required"], true);
        let body = &create["requestBody"]["content"]["application/json"]["schema"];
        assert!(body["required"].as_array().unwrap().contains(&json!("groupId")));
        assert!(create["responses"]["409"]["description"].as_str().unwrap().contains("ConvoAlreadyExists"), "{create}");
        let ticket = &document["paths"]["/xrpc/blue.catbird.mls.getSubscriptionTicket"]["post"];
        assert_eq!(ticket["requestBody"]["required"], false);
        let page = &document["paths"]["/xrpc/blue.catbird.mls.getConvos"]["get"]["parameters"];
        let limit = page.as_array().unwrap().iter().find(|parameter| parameter["name"] == "limit").unwrap();
        assert_eq!(
            (&limit["required"], &limit["schema"]["maximum"], &limit["schema"]["default"]),
            (&json!(false), &json!(100), &json!(50))
        );
    }

    #[test]
    fn bytes_are_content_without_a_schema() {
        let params = json!({ "type": "params", "required": ["id"], "properties": { "id": { "type": "string", "description": "d" } } });
        let bytes = json!({ "encoding": "*/*" });
        let upload = json!({ "type": "procedure", "parameters": params, "input": bytes, "output": {}, "errors": [] });
        let upload = path("test.upload", &upload)["post"].take();
        assert_eq!(upload["requestBody"], json!({ "required": true, "content": { "*/*": {} } }));
        assert_eq!((&upload["parameters"][0]["name"], &upload["parameters"][0]["in"]), (&json!("id"), &json!("query")));
        let download = json!({ "type": "query", "parameters": params, "output": bytes, "errors": [] });
        let download = path("test.download", &download)["get"].take();
        for status in ["200", "206"] {
            assert_eq!(download["responses"][status]["content"], json!({ "*/*": {} }));
        }
        assert!(download["responses"]["304"].is_object() && download["responses"]["307"].is_object());
        let headers = download["parameters"].as_array().unwrap().iter().filter(|one| one["in"] == "header");
        assert_eq!(headers.count(), 3);
    }
}
