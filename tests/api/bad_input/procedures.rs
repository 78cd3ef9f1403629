//! Bodies of procedures: each field with invalid values, and malformed bodies.

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, nsid};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::is_declared_refusal;
use super::values::wrong;
use crate::examples::{Example, Field, examples, methods};
use crate::harness::*;

any_serializer! {
    every_field_refuses_invalid_values;
    a_required_field_cannot_be_missing_or_null;
    an_optional_field_that_is_null_is_absent;
    a_body_that_is_no_json_object_is_refused;
    a_body_cut_off_anywhere_is_refused;
    a_field_given_twice_is_refused;
    an_unknown_field_may_hold_anything_that_is_json;
}

/// Returns an example of each procedure with a JSON body, with its fields.
async fn procedures(app: &TestApp) -> Vec<(Example, Vec<Field>)> {
    let mut procedures = Vec::new();
    for method in methods().into_iter().filter(|method| !method.has_query()) {
        for example in examples(app, method.name).await {
            let fields =
                method.fields.iter().filter(|field| example.fields.iter().any(|(name, _)| *name == field.name));
            let fields = fields.map(|field| Field {
                required: field.required || example.needs.contains(&&*field.name),
                ..field.clone()
            });
            let fields = fields.collect();
            procedures.push((example, fields));
        }
    }
    procedures
}

async fn every_field_refuses_invalid_values(app: &TestApp) {
    for (example, fields) in procedures(app).await {
        let (method, before, good) = (example.method, contents(app).await, example.input());
        for Field { name, schema, .. } in &fields {
            for value in wrong(name, schema, &good[name]) {
                let reply = example.send(&with(&good, json!({ &**name: value }))).await;
                is_declared_refusal(&reply, &format!("{method}.{name} = {:.100}", value.to_string()));
            }
        }
        assert_eq!(contents(app).await, before, "{method}");
        ok(example.send(&good).await);
    }
}

async fn a_required_field_cannot_be_missing_or_null(app: &TestApp) {
    for (example, fields) in procedures(app).await {
        let (before, good) = (contents(app).await, example.input());
        for Field { name, .. } in fields.iter().filter(|field| field.required) {
            let missing = with(&good, json!({ &**name: null }));
            let mut null = missing.clone();
            null[name] = Value::Null;
            for body in [missing, null] {
                let reply = refused(example.send(&body).await, 400, "InvalidRequest");
                assert!(reply.string("message").unwrap().contains(&**name) || reply.text.contains("null"), "{reply}");
            }
        }
        assert_eq!(contents(app).await, before, "{}", example.method);
    }
}

async fn an_optional_field_that_is_null_is_absent(app: &TestApp) {
    for (example, fields) in procedures(app).await {
        let mut body = example.input();
        for Field { name, required, .. } in &fields {
            // Without a target, a removal would be the caller's own departure.
            if !required && name != "targetDid" {
                body[name] = Value::Null;
            }
        }
        ok(example.send(&body).await);
    }
}

/// Sends a body unchanged.
async fn raw(caller: &Persona, method: &str, body: impl Into<reqwest::Body>) -> Reply {
    let nsid = nsid(method);
    let request = caller.xrpc.http.post(caller.xrpc.url(&nsid, &[])).bearer_auth(caller.xrpc.token(&nsid));
    caller.xrpc.send(&nsid, request.body(body)).await.unwrap()
}

async fn a_body_that_is_no_json_object_is_refused(app: &TestApp) {
    for (example, fields) in procedures(app).await {
        let (method, before) = (example.method, contents(app).await);
        let good = example.input().to_string();
        // Its values in the order of the fields, the list that is closest to the object.
        let list: Value = example.fields.iter().map(|(_, value)| value.clone()).collect();
        let mut broken_text = good.clone().into_bytes();
        let quote = broken_text.iter().rposition(|byte| *byte == b'"').unwrap();
        broken_text.insert(quote, 0xff);
        let bodies: Vec<Vec<u8>> = vec![
            b"".into(),
            b" ".into(),
            b"null".into(),
            b"1".into(),
            b"\"x\"".into(),
            b"[]".into(),
            b"[{}]".into(),
            b"{}".into(),
            list.to_string().into(),
            format!("[{good}]").into(),
            format!("{good}{good}").into(),
            format!("{good}x").into(),
            format!("\u{feff}{good}").into(),
            good.replace(':', "=").into(),
            good.replace('"', "'").into(),
            "{".repeat(100_000).into(),
            "[".repeat(100_000).into(),
            format!("{{\"x\":{}", "[".repeat(100_000)).into(),
            vec![0; 10_000],
            vec![0xff; 10_000],
            b"\x1f\x8b\x08\x00".into(),
            broken_text,
        ];
        let needs_nothing = fields.iter().all(|field| !field.required);
        for body in bodies {
            if needs_nothing && (body == b"{}" || body.is_empty()) {
                continue;
            }
            let reply = raw(&example.caller, method, body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            is_declared_refusal(&reply, &format!("{method} with body {shown}"));
        }
        assert_eq!(contents(app).await, before, "{method}");
        ok(raw(&example.caller, method, good).await);
    }
}

async fn a_body_cut_off_anywhere_is_refused(app: &TestApp) {
    for (example, _) in procedures(app).await {
        let (method, before) = (example.method, contents(app).await);
        let good = example.input().to_string();
        // An empty body is an object without fields, which may be valid.
        for end in (1..good.len()).step_by(41.max(good.len() / 40)) {
            let reply = raw(&example.caller, method, good[..end].to_owned()).await;
            refused(reply, 400, "InvalidRequest");
        }
        assert_eq!(contents(app).await, before, "{method}");
    }
}

async fn a_field_given_twice_is_refused(app: &TestApp) {
    for (example, _) in procedures(app).await {
        let (method, before) = (example.method, contents(app).await);
        let good = example.input().to_string();
        for (name, value) in example.fields.iter().filter(|(_, value)| !value.is_null()) {
            let twice = format!("{},\"{name}\":{value}}}", &good[..good.len() - 1]);
            refused(raw(&example.caller, method, twice).await, 400, "InvalidRequest");
        }
        assert_eq!(contents(app).await, before, "{method}");
    }
    let members = app.conversation(1).await;
    let both = with(&message(&members[0], b"x"), json!({ "convo_id": convo(&members[0]) }));
    refused(ask(&members[0], "sendMessage", &both).await, 400, "InvalidRequest");
}

async fn an_unknown_field_may_hold_anything_that_is_json(app: &TestApp) {
    let members = app.conversation(1).await;
    let good = message(&members[0], b"x").to_string();
    for value in
        ["null", "1e999", "-0", "123456789012345678901234567890", "\"\\u0000\"", "[[[[[[[[{}]]]]]]]]", "\"🐈\""]
    {
        let body = format!("{},\"colour\":{value},\"\":0,\"colour\":{value}}}", &good[..good.len() - 1]);
        ok(raw(&members[0], "sendMessage", body).await);
    }
}
