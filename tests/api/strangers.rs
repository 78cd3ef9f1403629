//! P7: whoever is not a member learns nothing. To somebody who never was one, a conversation that exists and one that does not
//! answer alike, whatever else is in the request; somebody who was one is told that it is over, and nothing more.

use std::collections::BTreeSet;

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value, facts};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    p7_a_conversation_that_exists_and_one_that_does_not_answer_strangers_alike;
    p7_a_removed_member_learns_only_that_it_was_removed;
}

/// A request of somebody who knows more about the conversation than it should.
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

/// Requests that a member could send just so, and requests that nobody could.
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
        get("getEpoch", vec![]),
        get("getMessages", vec![]),
        get("getMessages", parameter("sinceSeq", "0")),
        get("getMessages", parameter("sinceMessage", &sent.message_id)),
        get("getMessages", parameter("sinceMessage", "never-was")),
        get("getMessages", parameter("cursor", "2")),
        get("getMessages", parameter("cursor", "not a cursor")),
        get("getCommits", parameter("fromEpoch", "0")),
        get("getCommits", [parameter("fromEpoch", "0"), parameter("cursor", "1")].concat()),
        get("getCommits", [parameter("fromEpoch", "5"), parameter("toEpoch", "1")].concat()),
        get("getWelcome", vec![]),
        get("getWelcome", parameter("keyPackageHash", &"ab".repeat(32))),
        ask("addMembers", json!({ "didList": [roster.did()] })),
        ask("addMembers", json!({ "didList": [member.did()] })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": commit, "welcomeMessage": welcome })),
        ask("addMembers", json!({ "didList": [joiner.did()], "commit": base64_text(&foreign.staged.commit) })),
        ask(
            "addMembers",
            json!({
                "didList": [joiner.did()], "keyPackageHashes": [{ "did": joiner.did(), "hash": "ab".repeat(32) }],
            }),
        ),
        ask("leaveConvo", json!({})),
        ask("leaveConvo", json!({ "targetDid": member.did() })),
        ask("leaveConvo", json!({ "targetDid": random_did() })),
        ask("leaveConvo", json!({ "targetDid": member.did(), "commit": commit })),
        ask("leaveConvo", json!({ "commit": base64_text(&foreign.staged.commit) })),
        ask("sendMessage", message(json!({}))),
        ask("sendMessage", message(json!({ "ciphertext": bytes_value(&spoken) }))),
        ask("sendMessage", message(json!({ "msgId": sent.message_id }))),
        ask("sendMessage", message(json!({ "idempotencyKey": "k" }))),
        ask("sendMessage", message(json!({ "epoch": epoch - 1 }))),
        ask("sendMessage", message(json!({ "epoch": epoch + 1 }))),
        ask("confirmWelcome", json!({ "success": true })),
        ask("confirmWelcome", json!({ "success": false, "keyPackageHash": "ab".repeat(32) })),
        ask("updateCursor", json!({ "cursor": sent.message_id })),
        ask("updateCursor", json!({ "cursor": "not a ulid" })),
        ask("updateRead", json!({})),
        ask("updateRead", json!({ "messageId": sent.message_id })),
        ask("updateRead", json!({ "messageId": "never-was" })),
        ask("sendTypingIndicator", json!({ "isTyping": true })),
        get("getMailbox", vec![]),
        get("streamConvoEvents", vec![]),
        ask("getSubscriptionTicket", json!({})),
        ask("setMailbox", json!({ "provider": "none" })),
        ask(
            "setMailbox",
            json!({ "provider": "webhook", "url": "https://mail.example.com/in", "secret": bytes_value(&[7; 32]) }),
        ),
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

/// What a caller sees of a refusal, apart from the name of its own request.
fn seen(reply: &Reply) -> (u16, Value, BTreeSet<String>) {
    let headers = reply.headers.keys().map(ToString::to_string).collect();
    let (sentence, mut told) = facts(reply.body["message"].as_str().unwrap_or_default()).unwrap_or_default();
    told.remove("requestId");
    (reply.status, with(&reply.body, json!({ "requestId": null, "message": [sentence, told] })), headers)
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
        assert_eq!((reply.status, reply.error()), (403, Some("NotMember")), "{request:?}: {reply}");
        assert_eq!(reply.body.as_object().unwrap().len(), 4, "error, message, recovery, requestId: {reply}");
        assert_eq!(reply.body["recovery"], "rejoin");
    }
    assert_eq!(contents(app).await, before);
}
