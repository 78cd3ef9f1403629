//! The bodies of procedures: each field with what does not belong there, and bodies that are none.

use catbird_client::persona::{Persona, hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value, nsid};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::{Kind, hostile, is_declared_refusal};
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

/// A procedure that the caller could call just so: its fields, with what they hold and whether they must be there.
struct Procedure {
    name: &'static str,
    caller: Persona,
    fields: Vec<(&'static str, Kind, bool, Value)>,
}

impl Procedure {
    fn body(&self) -> Value {
        self.fields.iter().map(|(name, _, _, value)| ((*name).to_owned(), value.clone())).collect()
    }
}

async fn procedures(app: &TestApp) -> Vec<Procedure> {
    use Kind::*;
    let mut members = app.conversation(1).await;
    let invited = app.published_persona().await;
    members[0].add(&[invited.did()]).await.unwrap();
    let id = json!(convo(&members[0]));
    let carol = app.published_persona().await;
    let package = claim(&members[0], carol.did()).await.unwrap();
    let addition = offer_with(&mut members[0], &[&carol], std::slice::from_ref(&package));
    discard(&mut members[0]);
    let named = hashes(&[&carol], std::slice::from_ref(&package));
    let dave = app.published_persona().await;
    let daves = hashes(&[&dave], &[claim(&members[0], dave.did()).await.unwrap()]);
    let mut remover = app.conversation(3).await;
    let target = remover.pop().unwrap().did().to_owned();
    let mut remover = remover.swap_remove(0);
    let removal = remover.mls.remove(&remover.group_id, &[&target]).unwrap();
    let sender = app.conversation(1).await.remove(0);
    let as_admin = || Persona::new(members[0].xrpc.clone());
    let owner = app.persona();
    vec![
        Procedure {
            name: "createConvo",
            caller: as_admin(),
            fields: vec![
                ("groupId", Text, true, json!(hex(random_did().as_bytes()))),
                ("cipherSuite", Suite, true, json!(owner.mls.suite_name())),
                ("initialMembers", Dids, false, json!([dave.did()])),
                ("welcomeMessage", Bytes, false, json!(base64_text(&addition.staged.welcome))),
                ("keyPackageHashes", Hashes, false, daves),
                ("metadata", Metadata, false, json!({ "name": "n", "description": "d" })),
                ("currentEpoch", Number, false, json!(1)),
                ("idempotencyKey", Key, false, json!("k")),
            ],
        },
        Procedure {
            name: "addMembers",
            caller: as_admin(),
            fields: vec![
                ("convoId", Id, true, id.clone()),
                ("didList", Dids, true, json!([carol.did()])),
                ("commit", Bytes, false, json!(base64_text(&addition.staged.commit))),
                ("welcomeMessage", Bytes, false, json!(base64_text(&addition.staged.welcome))),
                ("keyPackageHashes", Hashes, false, named),
                ("idempotencyKey", Key, false, json!("k")),
            ],
        },
        Procedure {
            name: "leaveConvo",
            fields: vec![
                ("convoId", Id, true, json!(convo(&remover))),
                ("targetDid", Did, false, json!(target)),
                ("commit", Bytes, false, json!(base64_text(&removal.commit))),
                ("idempotencyKey", Key, false, json!("k")),
            ],
            caller: remover,
        },
        Procedure {
            name: "sendMessage",
            fields: vec![
                ("convoId", Id, true, json!(convo(&sender))),
                ("ciphertext", Opaque, true, bytes_value(b"hello")),
                ("epoch", Number, true, json!(0)),
                ("senderDid", Did, false, json!(sender.did())),
                ("msgId", Id, false, json!("m-1")),
                ("embedType", Text, false, json!("t")),
                ("embedUri", Uri, false, json!("https://example.com")),
                ("idempotencyKey", Key, false, json!("k")),
            ],
            caller: sender,
        },
        Procedure {
            name: "updateCursor",
            caller: as_admin(),
            fields: vec![
                ("convoId", Id, true, id.clone()),
                ("cursor", Ulid, true, json!("01JB2N0W3E8Z6TQ9K4M5V7X1YA")),
            ],
        },
        Procedure {
            name: "updateRead",
            caller: as_admin(),
            fields: vec![("convoId", Id, true, id.clone()), ("messageId", Id, false, Value::Null)],
        },
        Procedure {
            name: "sendTypingIndicator",
            caller: as_admin(),
            fields: vec![("convoId", Id, true, id.clone()), ("isTyping", Flag, true, json!(true))],
        },
        Procedure {
            name: "getSubscriptionTicket",
            caller: as_admin(),
            fields: vec![("convoId", Id, false, id.clone())],
        },
        Procedure {
            name: "setMailbox",
            caller: as_admin(),
            fields: vec![
                ("convoId", Id, false, id.clone()),
                ("provider", Suite, true, json!("webhook")),
                ("url", Uri, true, json!("https://mail.example.com/in")),
                ("secret", Bytes, true, bytes_value(&[7; 32])),
                ("zone", Text, false, json!("home")),
            ],
        },
        Procedure {
            name: "publishKeyPackage",
            fields: vec![
                ("keyPackage", Bytes, true, json!(base64_text(&owner.mls.key_package().unwrap()))),
                ("cipherSuite", Suite, true, json!(owner.mls.suite_name())),
                ("expires", Date, false, json!((app.app.clock.now() + chrono::TimeDelta::days(1)).to_rfc3339())),
                ("idempotencyKey", Key, false, json!("k")),
            ],
            caller: owner,
        },
        Procedure {
            name: "claimKeyPackages",
            caller: app.persona(),
            fields: vec![
                ("dids", Dids, true, json!([carol.did()])),
                ("cipherSuite", Suite, false, json!(carol.mls.suite_name())),
            ],
        },
        Procedure {
            name: "confirmWelcome",
            caller: invited,
            fields: vec![
                ("convoId", Id, true, id),
                ("success", Flag, true, json!(false)),
                ("errorDetails", Text, false, json!("x")),
                ("keyPackageHash", Hash, false, Value::Null),
            ],
        },
    ]
}

async fn every_field_refuses_invalid_values(app: &TestApp) {
    for procedure in procedures(app).await {
        let before = contents(app).await;
        for (name, kind, _, _) in &procedure.fields {
            for value in hostile(*kind) {
                let body = with(&procedure.body(), json!({ *name: value }));
                let reply = ask(&procedure.caller, procedure.name, &body).await;
                is_declared_refusal(&reply, &format!("{}.{name} = {:.100}", procedure.name, value.to_string()));
            }
        }
        assert_eq!(contents(app).await, before, "{}", procedure.name);
        ok(ask(&procedure.caller, procedure.name, &procedure.body()).await);
    }
}

async fn a_required_field_cannot_be_missing_or_null(app: &TestApp) {
    for procedure in procedures(app).await {
        let before = contents(app).await;
        for (name, ..) in procedure.fields.iter().filter(|(_, _, required, _)| *required) {
            let missing = with(&procedure.body(), json!({ *name: null }));
            let mut null = missing.clone();
            null[*name] = Value::Null;
            for body in [missing, null] {
                let reply = refused(ask(&procedure.caller, procedure.name, &body).await, 400, "InvalidRequest");
                assert!(reply.string("message").unwrap().contains(name) || reply.text.contains("null"), "{reply}");
            }
        }
        assert_eq!(contents(app).await, before, "{}", procedure.name);
    }
}

async fn an_optional_field_that_is_null_is_absent(app: &TestApp) {
    for procedure in procedures(app).await {
        let mut body = procedure.body();
        for (name, _, required, _) in &procedure.fields {
            // Without a target, a removal would be the caller's own leaving.
            if !required && *name != "targetDid" {
                body[*name] = Value::Null;
            }
        }
        ok(ask(&procedure.caller, procedure.name, &body).await);
    }
}

/// Sends a body as it is.
async fn raw(caller: &Persona, method: &str, body: impl Into<reqwest::Body>) -> Reply {
    let nsid = nsid(method);
    let request = caller.xrpc.http.post(caller.xrpc.url(&nsid, &[])).bearer_auth(caller.xrpc.token(&nsid));
    caller.xrpc.send(&nsid, request.body(body)).await.unwrap()
}

async fn a_body_that_is_no_json_object_is_refused(app: &TestApp) {
    for procedure in procedures(app).await {
        let before = contents(app).await;
        let good = procedure.body().to_string();
        // Its values in the order of the fields, which is as near to the object as a list can be.
        let list: Value = procedure.fields.iter().map(|(_, _, _, value)| value.clone()).collect();
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
        let needs_nothing = procedure.fields.iter().all(|(_, _, required, _)| !required);
        for body in bodies {
            if needs_nothing && (body == b"{}" || body.is_empty()) {
                continue;
            }
            let reply = raw(&procedure.caller, procedure.name, body.clone()).await;
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            is_declared_refusal(&reply, &format!("{} with body {shown}", procedure.name));
        }
        assert_eq!(contents(app).await, before, "{}", procedure.name);
        ok(raw(&procedure.caller, procedure.name, good).await);
    }
}

async fn a_body_cut_off_anywhere_is_refused(app: &TestApp) {
    for procedure in procedures(app).await {
        let before = contents(app).await;
        let good = procedure.body().to_string();
        // None at all is an object without fields, which may do.
        for end in (1..good.len()).step_by(41.max(good.len() / 40)) {
            let reply = raw(&procedure.caller, procedure.name, good[..end].to_owned()).await;
            refused(reply, 400, "InvalidRequest");
        }
        assert_eq!(contents(app).await, before, "{}", procedure.name);
    }
}

async fn a_field_given_twice_is_refused(app: &TestApp) {
    for procedure in procedures(app).await {
        let before = contents(app).await;
        let good = procedure.body().to_string();
        for (name, _, _, value) in &procedure.fields {
            let twice = format!("{},\"{name}\":{value}}}", &good[..good.len() - 1]);
            refused(raw(&procedure.caller, procedure.name, twice).await, 400, "InvalidRequest");
        }
        assert_eq!(contents(app).await, before, "{}", procedure.name);
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
