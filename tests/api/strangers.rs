//! P7: callers that are not members learn nothing. A caller that was never a member gets the same answer for a conversation that
//! exists and for one that does not, whatever else is in the request. A former member is told that it was removed, and nothing more.

use std::collections::BTreeSet;

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value, facts};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::bad_input::values::{wrong, wrong_texts};
use crate::examples::{Example, Method, examples, methods};
use crate::harness::*;

either_serializer! {
    p7_every_method_answers_strangers_alike_whether_or_not_the_conversation_exists;
    p7_every_method_tells_a_former_member_that_it_was_removed_and_nothing_more;
    p7_a_conversation_that_exists_and_one_that_does_not_answer_strangers_alike;
    p7_a_removed_member_learns_only_that_it_was_removed;
}

/// A request of a caller that knows more about the conversation than it should.
enum Request {
    Get(&'static str, Vec<(&'static str, String)>),
    Ask(&'static str, Value),
}

impl Request {
    async fn send(&self, caller: &Persona, convo: &str) -> Reply {
        match self {
            Request::Get(method, parameters) => {
                let mut all = vec![("convoId", convo.to_owned())];
                all.extend(parameters.iter().cloned());
                caller.xrpc.query(method, &all).await.unwrap()
            }
            Request::Ask(method, body) => ask(caller, method, &with(body, json!({ "convoId": convo }))).await,
        }
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Request::Get(method, parameters) => write!(f, "{method} {parameters:?}"),
            Request::Ask(method, body) => write!(f, "{method} {body:.300}"),
        }
    }
}

/// Returns requests that a member could send as they are, and requests that are invalid from any caller, in addition to
/// the examples.
async fn requests(app: &TestApp, member: &mut Persona) -> (Vec<Request>, Vec<Request>) {
    let sent = member.send("hello").await.unwrap();
    let spoken = {
        let Persona { mls, group_id, .. } = &mut *member;
        mls.encrypt(group_id, b"hello").unwrap()
    };
    let joiner = app.published_persona().await;
    let addition = offer(member, &[&joiner]);
    discard(member);
    let roster = app.published_persona().await;
    let mut elsewhere = app.conversation(1).await.remove(0);
    let foreign = offer(&mut elsewhere, &[&app.persona()]);
    let epoch = member.epoch().unwrap();
    let (commit, welcome) = (base64_text(&addition.staged.commit), base64_text(&addition.staged.welcome));
    let parameter = |name: &'static str, value: &str| vec![(name, value.to_owned())];
    let get = |method, parameters| Request::Get(method, parameters);
    let ask = |method, body| Request::Ask(method, body);
    let message = |changes| with(&json!({ "ciphertext": bytes_value(b"opaque"), "epoch": epoch }), changes);

    let valid = vec![
        get("getMessages", parameter("sinceMessage", "never-was")),
        get("getMessages", parameter("cursor", "not a cursor")),
        get("getCommits", parameter("fromEpoch", "0")),
        get("getCommits", [parameter("fromEpoch", "5"), parameter("toEpoch", "1")].concat()),
        get("getWelcome", vec![]),
        get("getWelcome", parameter("keyPackageHash", &"ab".repeat(32))),
        ask("addMembers", json!({ "didList": [roster.did()] })),
        ask("addMembers", json!({ "didList": [member.did()] })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": base64_text(&foreign.staged.commit) })),
        ask(
            "addMembers",
            json!({
                "didList": [joiner.did()], "keyPackageHashes": [{ "did": joiner.did(), "hash": "ab".repeat(32) }],
            }),
        ),
        ask("leaveConvo", json!({ "targetDid": member.did() })),
        ask("leaveConvo", json!({ "targetDid": random_did() })),
        ask("leaveConvo", json!({ "targetDid": member.did(), "commit": commit })),
        ask("leaveConvo", json!({ "commit": base64_text(&foreign.staged.commit) })),
        ask("sendMessage", message(json!({}))),
        ask("sendMessage", message(json!({ "ciphertext": bytes_value(&spoken) }))),
        ask("sendMessage", message(json!({ "msgId": sent.message_id }))),
        ask("sendMessage", message(json!({ "epoch": epoch - 1 }))),
        ask("sendMessage", message(json!({ "epoch": epoch + 1 }))),
        ask("confirmWelcome", json!({ "success": true })),
        ask("confirmWelcome", json!({ "success": false, "keyPackageHash": "ab".repeat(32) })),
        ask("updateCursor", json!({ "cursor": sent.message_id })),
        ask("updateCursor", json!({ "cursor": "not a ulid" })),
        ask("updateRead", json!({})),
        ask("updateRead", json!({ "messageId": "never-was" })),
        ask("setMailbox", json!({ "provider": "none" })),
    ];
    let invalid = vec![
        get("getMessages", parameter("limit", "0")),
        get("getCommits", vec![]),
        get("getWelcome", parameter("keyPackageHash", "x")),
        ask("addMembers", json!({ "didList": [] })),
        ask("addMembers", json!({ "didList": [member.did(), member.did()] })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": "AAAA" })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": welcome })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": commit, "welcomeMessage": commit })),
        ask(
            "addMembers",
            json!({
                "didList": [joiner.did()], "commit": commit, "keyPackageHashes": [{ "did": member.did(), "hash": "ab".repeat(32) }],
            }),
        ),
        ask("leaveConvo", json!({ "commit": "AAAA" })),
        ask("sendMessage", message(json!({ "ciphertext": bytes_value(&addition.staged.commit) }))),
        ask("sendMessage", message(json!({ "ciphertext": bytes_value(&spoken), "epoch": epoch + 1 }))),
        ask("sendMessage", message(json!({ "senderDid": member.did() }))),
        ask("sendMessage", message(json!({ "embedUri": "none" }))),
        ask("confirmWelcome", json!({ "success": true, "keyPackageHash": "x" })),
        ask("setMailbox", json!({ "provider": "webhook" })),
    ];
    (valid, invalid)
}

/// The parts of a refusal that a caller sees, without the id of its own request.
fn seen(reply: &Reply) -> (u16, Value, BTreeSet<String>) {
    let headers = reply.headers.keys().map(ToString::to_string).collect();
    let (sentence, mut told) = facts(reply.body["message"].as_str().unwrap_or_default()).unwrap_or_default();
    told.remove("requestId");
    (reply.status, with(&reply.body, json!({ "requestId": null, "message": [sentence, told] })), headers)
}

/// Returns the examples of methods that name a conversation, with its id.
async fn about_conversations(app: &TestApp) -> Vec<(Method, Example, String)> {
    let mut about = Vec::new();
    for method in methods().into_iter().filter(|method| method.has("convoId")) {
        for example in examples(app, method.name).await {
            let id = example.input()["convoId"].as_str().unwrap().to_owned();
            about.push((method.clone(), example, id));
        }
    }
    about
}

/// Returns the example, then the example without each optional field, then with a few invalid values.
fn variants(method: &Method, example: &Example) -> Vec<Value> {
    let good = example.input();
    let mut variants = vec![good.clone()];
    for field in method.fields.iter().filter(|field| field.name != "convoId") {
        let (name, value) = (&*field.name, &good[&field.name]);
        if value.is_null() {
            continue;
        }
        if !field.required {
            variants.push(with(&good, json!({ name: null })));
        }
        let wrong = match method.has_query() {
            false => wrong(name, &field.schema, value),
            true => wrong_texts(name, &field.schema).into_iter().map(Value::from).collect(),
        };
        let wrong = wrong.into_iter().filter(|wrong| wrong.to_string().len() < 10_000);
        variants.extend(wrong.take(3).map(|wrong| with(&good, json!({ name: wrong }))));
    }
    variants
}

async fn p7_every_method_answers_strangers_alike_whether_or_not_the_conversation_exists(app: &TestApp) {
    for (method, example, id) in about_conversations(app).await {
        let (stranger, before) = (app.persona(), contents(app).await);
        for (n, input) in variants(&method, &example).iter().enumerate() {
            let send = async |id: &str| example.send_as(&stranger, &with(input, json!({ "convoId": id }))).await;
            let real = send(&id).await;
            // As long as the real one, since a refusal may name the column of a later field.
            for missing in ["01JB2N0W3E8Z6TQ9K4M5V7X1YA", &*"x".repeat(id.len())] {
                assert_eq!(seen(&real), seen(&send(missing).await), "{} {input:.300}", method.name);
            }
            assert!((400..500).contains(&real.status), "{} {input:.300}: {real}", method.name);
            if n == 0 {
                refused(real, 404, "ConvoNotFound");
            }
        }
        assert_eq!(contents(app).await, before, "{}", method.name);
    }
}

async fn p7_every_method_tells_a_former_member_that_it_was_removed_and_nothing_more(app: &TestApp) {
    for (_, example, id) in about_conversations(app).await {
        let creator = only_convo(&example.caller).await["creator"].as_str().unwrap().to_owned();
        let (admin, former) = (Persona::new(example.caller.xrpc.signed_in_as(&creator)), app.persona());
        ok(ask(&admin, "addMembers", &json!({ "convoId": id, "didList": [former.did()] })).await);
        ok(ask(&admin, "leaveConvo", &json!({ "convoId": id, "targetDid": former.did() })).await);
        let before = contents(app).await;
        is_told_of_its_removal(&example.send_as(&former, &example.input()).await, example.method);
        assert_eq!(contents(app).await, before, "{}", example.method);
    }
}

#[track_caller]
fn is_told_of_its_removal(reply: &Reply, request: &str) {
    assert_eq!((reply.status, reply.error()), (403, Some("NotMember")), "{request}: {reply}");
    assert_eq!(reply.body.as_object().unwrap().len(), 4, "error, message, recovery, requestId: {reply}");
    assert_eq!(reply.body["recovery"], "rejoin");
}

async fn p7_a_conversation_that_exists_and_one_that_does_not_answer_strangers_alike(app: &TestApp) {
    let mut members = app.conversation(2).await;
    ok(ask(&members[0], "sendMessage", &with(&message(&members[0], b"x"), json!({ "idempotencyKey": "k" }))).await);
    let id = convo(&members[0]);
    let (valid, invalid) = requests(app, &mut members[0]).await;
    let stranger = app.persona();
    let before = contents(app).await;
    for (request, valid) in valid.iter().map(|one| (one, true)).chain(invalid.iter().map(|one| (one, false))) {
        let real = request.send(&stranger, &id).await;
        for missing in ["01JB2N0W3E8Z6TQ9K4M5V7X1YA", "x"] {
            let never = request.send(&stranger, missing).await;
            assert_eq!(seen(&real), seen(&never), "{request:?}");
        }
        if valid {
            refused(real, 404, "ConvoNotFound");
        } else {
            assert!((400..500).contains(&real.status), "{request:?}: {real}");
        }
    }
    assert_eq!(contents(app).await, before);
}

async fn p7_a_removed_member_learns_only_that_it_was_removed(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let removed = json!({ "convoId": convo(&members[0]), "targetDid": members[2].did() });
    ok(ask(&members[0], "leaveConvo", &removed).await);
    let id = convo(&members[0]);
    let (valid, _) = requests(app, &mut members[0]).await;
    let before = contents(app).await;
    for request in &valid {
        let reply = request.send(&members[2], &id).await;
        is_told_of_its_removal(&reply, &format!("{request:?}"));
    }
    assert_eq!(contents(app).await, before);
}
