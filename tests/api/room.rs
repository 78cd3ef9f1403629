//! P10 of memory: who announces much, sends it slowly, or repeats what it sent costs others nothing.

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::*;
use crate::support::app::TestApp;

any_serializer! {
    p10_bodies_that_were_announced_and_do_not_come_keep_nobody_waiting;
    p10_a_refusal_does_not_repeat_what_was_sent;
}

/// A connection with the head of a call, and no more.
async fn begin(app: &TestApp, method: &str, token: &str, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /xrpc/blue.catbird.mls.{method} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

async fn p10_bodies_that_were_announced_and_do_not_come_keep_nobody_waiting(app: &TestApp) {
    let (mallory, bob) = (app.persona(), app.persona());
    let token = mallory.xrpc.token("blue.catbird.mls.sendMessage");
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(begin(app, "sendMessage", &token, "Content-Length: 33554432\r\n").await);
    }
    // One more is one too many, and by then the others are known.
    let more = loop {
        let body = json!({ "convoId": "none", "isTyping": true });
        let more = ask(&mallory, "sendTypingIndicator", &body).await;
        if more.status != 404 {
            break more;
        }
    };
    refused(more, 429, "RateLimitExceeded");
    let body = json!({ "convoId": "none", "isTyping": true });
    refused(ask(&bob, "sendTypingIndicator", &body).await, 404, "ConvoNotFound");
    drop(held);
}

async fn p10_a_refusal_does_not_repeat_what_was_sent(app: &TestApp) {
    let alice = app.persona();
    let body = json!({ "convoId": "none", "ciphertext": "", "epoch": "\u{e000}".repeat(500_000) });
    let reply = refused(ask(&alice, "sendMessage", &body).await, 400, "InvalidRequest");
    assert!(reply.text.len() < 1_000, "{} bytes", reply.text.len());
    assert!(reply.body["message"].as_str().unwrap().contains("epoch"), "{reply}");
}
