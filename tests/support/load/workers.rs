//! The two kinds of clients.

use catbird_client::persona::{Persona, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value};
use serde_json::json;

use super::{Ack, Desk};

/// Sends opaque, distinct messages with a key, an id, or both.
pub(super) async fn send(desk: Desk, member: Persona, turn: usize) {
    let mut epoch = member.epoch().unwrap();
    let mut last = 0;
    for n in 0usize.. {
        if desk.is_stopping() {
            return;
        }
        let ciphertext = format!("{} says {n}", member.did()).into_bytes();
        let mut body = json!({
            "convoId": member.convo().unwrap(),
            "ciphertext": bytes_value(&ciphertext),
            "epoch": epoch,
            "senderDid": member.did(),
        });
        let (keyed, named) = [(true, false), (false, true), (true, true)][n % 3];
        let key = keyed.then(unique);
        if let Some(key) = &key {
            body["idempotencyKey"] = json!(key);
        }
        if named {
            body["msgId"] = json!(unique());
        }
        let reply = desk.insist(&member.xrpc, turn + n, "sendMessage", &body).await;
        if let Some(now) = conflict(&reply) {
            epoch = now;
            continue;
        }
        let seq = reply.number("seq").unwrap();
        assert!(seq > last, "a message that was sent after the reply to entry {last} became entry {seq}");
        last = seq;
        let id = reply.string("messageId").unwrap();
        assert!(!named || body["msgId"] == id, "{reply}");
        assert_eq!(reply.number("epoch").unwrap(), epoch);
        desk.ledger.enter(&member, Ack { id: Some(id.to_owned()), key, newcomer: None, seq, epoch, bytes: ciphertext });
    }
}

/// Commits with an addition each, catching up with the other committer from its refusals.
pub(super) async fn commit(desk: Desk, mut member: Persona) {
    for n in 0usize.. {
        if desk.is_stopping() {
            return;
        }
        let staged = member.mls.self_update(&member.group_id).unwrap();
        let newcomer = random_did();
        let mut body = json!({
            "convoId": member.convo().unwrap(),
            "didList": [newcomer],
            "commit": base64_text(&staged.commit),
        });
        // Without a key, the commit's bytes identify the request.
        let key = n.is_multiple_of(2).then(unique);
        if let Some(key) = &key {
            body["idempotencyKey"] = json!(key);
        }
        let reply = desk.insist(&member.xrpc, n, "addMembers", &body).await;
        if conflict(&reply).is_some() {
            member.mls.discard_pending(&member.group_id).unwrap();
            for commit in reply.list("missing").unwrap() {
                let bytes = reply.bytes_in(commit, "commitData").unwrap();
                member.mls.process(&member.group_id, &bytes).unwrap();
            }
            assert!(member.epoch().unwrap() > staged.made_in, "a conflict that brings nothing: {reply}");
            continue;
        }
        let epoch = member.mls.merge_pending(&member.group_id).unwrap();
        assert_eq!(reply.number("newEpoch").unwrap(), epoch);
        let seq = reply.number("seq").unwrap();
        desk.ledger.enter(&member, Ack { id: None, key, newcomer: Some(newcomer), seq, epoch, bytes: staged.commit });
    }
}

/// Returns the server's epoch if that caused the refusal; any other refusal fails the test.
fn conflict(reply: &Reply) -> Option<u64> {
    match (reply.status, reply.error()) {
        (200, _) => None,
        (409, Some("EpochMismatch")) => {
            assert_eq!(reply.body["reason"], "stale", "no client is ahead of the log: {reply}");
            Some(reply.number("serverEpoch").unwrap())
        }
        _ => panic!("refused: {reply}"),
    }
}
