//! Whatever is sent, the answer is a declared error and nothing is written: every method, every field, every kind of value that
//! does not belong there, and bodies and query strings that are none.

use serde_json::{Value, json};

use crate::harness::*;
use crate::support::app::TestApp;
use crate::support::client::persona::{Persona, hex};
use crate::support::client::random_did;
use crate::support::client::xrpc::{Reply, base64_text, bytes_value, nsid};

any_serializer! {
    no_field_of_a_procedure_takes_what_does_not_belong_there;
    no_parameter_of_a_query_takes_what_does_not_belong_there;
    a_required_field_cannot_be_missing_or_null;
    an_optional_field_that_is_null_is_absent;
    a_body_that_is_no_json_object_is_refused;
    a_body_cut_off_anywhere_is_refused;
    a_field_given_twice_is_refused;
    an_unknown_field_may_hold_anything_that_is_json;
    a_query_string_that_is_none_is_refused;
}

/// What a field holds, and so what it must not.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Id,
    Did,
    Dids,
    Bytes,
    /// Bytes that may be anything, but not nothing.
    Opaque,
    Hash,
    Hashes,
    Suite,
    Text,
    Key,
    Number,
    Flag,
    Date,
    Ulid,
    Uri,
    Metadata,
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

/// Values that no field of this kind takes.
fn hostile(kind: Kind) -> Vec<Value> {
    use Kind::*;
    let long = "x".repeat(100_000);
    let million = json!(vec!["did:plc:x"; 200_000]);
    let mut values = match kind {
        Flag => vec![json!("true"), json!("")],
        Number => vec![
            json!("1"),
            json!(-1),
            json!(1_000_000_000_000_000_000i64),
            json!(u64::MAX),
            json!(1u64 << 53),
            json!(1.5),
            json!(1e300),
        ],
        Text => vec![json!("\0"), json!(long)],
        Key => vec![json!(""), json!("\0"), json!(long), json!("🐈".repeat(33))],
        Metadata => vec![
            json!("x"),
            json!({ "name": 1 }),
            json!({ "name": "\0" }),
            json!({ "description": [] }),
            json!({ "name": long }),
        ],
        Dids => [
            json!("did:plc:x"),
            json!([1]),
            json!([null]),
            json!([["did:plc:x"]]),
            json!([{ "did": "did:plc:x" }]),
            million,
        ]
        .into_iter()
        .chain(hostile(Did).into_iter().map(|value| json!([value])))
        .collect(),
        Hashes => [
            json!("x"),
            json!(["x"]),
            json!([null]),
            json!([{}]),
            json!([{ "did": "did:plc:x" }]),
            json!([{ "hash": "ab".repeat(32) }]),
        ]
        .into_iter()
        .chain(
            hostile(Hash)
                .into_iter()
                .filter(|hash| !hash.is_null())
                .map(|hash| json!([{ "did": "did:plc:x", "hash": hash }])),
        )
        .chain(hostile(Did).into_iter().map(|did| json!([{ "did": did, "hash": "ab".repeat(32) }])))
        .collect(),
        Bytes | Opaque => vec![
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
        ],
        Id | Did | Hash | Suite | Date | Ulid | Uri => vec![
            json!("\0"),
            json!("🐈"),
            json!("'; drop table members; --"),
            json!("a b"),
            json!(long),
            json!("../../etc/passwd"),
            json!("%00"),
            json!("\u{202e}"),
        ],
    };
    if matches!(kind, Id | Did | Hash | Suite | Date | Ulid | Uri) {
        values.push(json!(""));
    }
    // Of another type altogether.
    if kind != Flag {
        values.push(json!(true));
    }
    if kind != Number {
        values.extend([json!(7), json!(1_000_000_000_000_000_000i64), json!(-0.5)]);
    }
    if kind != Metadata {
        values.extend([json!({}), json!({ "a": { "b": [] } })]);
    }
    if !matches!(kind, Dids | Hashes | Metadata) {
        values.extend([json!([]), json!([[]])]);
    }
    values
}

#[track_caller]
fn is_declared_refusal(reply: &Reply, what: &str) {
    // That the error is declared, and has its shape, is checked with every reply.
    assert!((400..500).contains(&reply.status) && reply.status != 401, "{what}: {reply}");
    assert_eq!(
        reply.body["recovery"],
        if reply.error() == Some("EpochMismatch") { "catchUpThenRebase" } else { "giveUp" }
    );
}

async fn no_field_of_a_procedure_takes_what_does_not_belong_there(app: &TestApp) {
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
        for body in bodies {
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
        for end in (0..good.len()).step_by(41.max(good.len() / 40)) {
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

/// A parameter: what it holds, whether it must be there, and a value that it takes; empty where there is none.
type Parameter = (&'static str, Kind, bool, String);

/// The parameters of a query that the caller could send just so, with what each holds.
fn queries(member: &str, convo: &str) -> Vec<(&'static str, Vec<Parameter>)> {
    use Kind::*;
    let id = || ("convoId", Id, true, convo.to_owned());
    let limit = || ("limit", Number, false, "5".to_owned());
    vec![
        ("getEpoch", vec![id()]),
        (
            "getMessages",
            vec![id(), limit(), ("sinceSeq", Number, false, "0".to_owned()), ("peek", Flag, false, "true".to_owned())],
        ),
        ("getMessages", vec![id(), limit(), ("cursor", Number, false, "3".to_owned())]),
        (
            "getCommits",
            vec![
                id(),
                limit(),
                ("fromEpoch", Number, true, "0".to_owned()),
                ("toEpoch", Number, false, "1".to_owned()),
                ("cursor", Number, false, "1".to_owned()),
            ],
        ),
        ("getConvos", vec![limit(), ("cursor", Id, false, "x".to_owned())]),
        ("getWelcome", vec![id(), ("keyPackageHash", Hash, false, String::new())]),
        (
            "getKeyPackages",
            vec![
                ("dids", Did, true, member.to_owned()),
                ("cipherSuite", Suite, false, "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519".to_owned()),
            ],
        ),
    ]
}

async fn no_parameter_of_a_query_takes_what_does_not_belong_there(app: &TestApp) {
    let mut creator = app.conversation(1).await.remove(0);
    let (invited, somebody) = (app.published_persona().await, app.persona());
    creator.add(&[invited.did()]).await.unwrap();
    let id = convo(&creator);
    let before = contents(app).await;
    for (method, parameters) in queries(somebody.did(), &id) {
        let send = async |name: &str, value: Option<&str>| {
            let mut all: Vec<_> = parameters.iter().filter(|(_, _, _, value)| !value.is_empty()).collect();
            all.retain(|(known, ..)| *known != name);
            let mut all: Vec<_> = all.into_iter().map(|(name, _, _, value)| (*name, &**value)).collect();
            all.extend(value.map(|value| (name, value)));
            get(&invited, method, &all).await
        };
        ok(send("colour", Some("red")).await);
        for (name, kind, required, good) in &parameters {
            let mut bad = vec![
                "",
                "\0",
                "🐈",
                "'; drop table members; --",
                "a b",
                "%00",
                "../..",
                "\u{202e}",
                "[]",
                "{}",
                "null",
            ];
            match kind {
                Kind::Number => bad.extend(["-1", "1.5", "1e3", "0x1", "+", " 1", "1000000000000000000000000", "true"]),
                Kind::Flag => bad.extend(["1", "0", "yes", "TRUE"]),
                _ => {}
            }
            // A word is an id that there might be.
            if *kind == Kind::Id {
                bad.retain(|value| *value != "null");
            }
            for value in bad.iter().copied().chain([&*"x".repeat(1_000)]) {
                is_declared_refusal(&send(name, Some(value)).await, &format!("{method}?{name}={value:.50}"));
            }
            if *required {
                refused(send(name, None).await, 400, "InvalidRequest");
            }
            if !good.is_empty() && *name != "dids" {
                let twice = [(*name, &**good), (*name, &**good), ("convoId", &*id), ("fromEpoch", "0")];
                refused(get(&invited, method, &twice).await, 400, "InvalidRequest");
            }
        }
    }
    assert_eq!(contents(app).await, before);
}

async fn a_query_string_that_is_none_is_refused(app: &TestApp) {
    let members = app.conversation(1).await;
    let id = convo(&members[0]);
    let nsid = "blue.catbird.mls.getEpoch";
    let send = async |query: String| {
        let mut url = members[0].xrpc.url(nsid, &[]);
        url.set_query(Some(&query));
        let request = members[0].xrpc.http.get(url).bearer_auth(members[0].xrpc.token(nsid));
        members[0].xrpc.send(nsid, request).await.unwrap()
    };
    for query in [
        "",
        "&",
        "&&==&",
        "=",
        "convoId",
        "convoId=",
        "convoId=%ff%fe",
        "convoId=%",
        "convoId=%zz",
        "convoid=x",
        "%00=%00",
    ] {
        refused(send(query.to_owned()).await, 400, "InvalidRequest");
    }
    let long = format!("convoId={id}&{}", "a=b&".repeat(15_360));
    refused(send(long).await, 400, "InvalidRequest");
    ok(send(format!("&&convoId={id}&colour&=&")).await);
}
