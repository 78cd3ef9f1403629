//! Rules of a connection: it leaves HTTP only for a stream, and its next request is read after the reply to the last
//! one.

use catbird_testkit::app::TestApp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

any_serializer! {
    only_a_stream_may_leave_http;
    requests_that_come_together_are_answered_in_their_order;
    a_chunked_body_ends_where_it_ends;
    pages_have_content_types_that_browsers_do_not_guess;
    bytes_that_are_not_a_request_are_refused_with_a_body;
}

async fn bytes_that_are_not_a_request_are_refused_with_a_body(app: &TestApp) {
    let live = |more: String| format!("GET /health/live{more}\r\n\r\n");
    for (head, status) in [
        (live(format!("?{} HTTP/1.1\r\nHost: x", "x".repeat(70_000))), 400),
        (live(format!(" HTTP/1.1\r\nHost: x\r\nX: {}", "x".repeat(140_000))), 431),
        (live(format!(" HTTP/1.1\r\nHost: x{}", "\r\nX: x".repeat(200))), 431),
        (live(" HTTP/9".to_owned()), 400),
        ("\u{1} nothing\r\n\r\n".to_owned(), 400),
    ] {
        let mut socket = connect(app).await;
        // A request before it, so that the connection has answered one.
        socket.write_all(live(" HTTP/1.1\r\nHost: x".to_owned()).as_bytes()).await.unwrap();
        let mut first = [0; 512];
        let read = socket.read(&mut first).await.unwrap();
        assert!(first[..read].starts_with(b"HTTP/1.1 200 "));
        // The server may close before it has read everything.
        let _ = socket.write_all(head.as_bytes()).await;
        let reply = rest(&mut socket).await;
        assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{:.40}: {reply}", head);
        let body: serde_json::Value = serde_json::from_str(reply.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!((&body["error"], &body["recovery"]), (&"InvalidRequest".into(), &"giveUp".into()), "{reply}");
        assert!(body["message"].is_string() && reply.contains("content-type: application/json\r\n"), "{reply}");
        let id = body["requestId"].as_str().unwrap();
        assert!(reply.contains(&format!("\r\nx-request-id: {id}\r\n")), "{reply}");
        assert!(body["message"].as_str().unwrap().ends_with(&format!(" requestId={id}]")), "{reply}");
        // Any page may read it, like any other reply.
        assert!(reply.contains("\r\naccess-control-allow-origin: *\r\n"), "{reply}");
        assert!(reply.contains("\r\naccess-control-expose-headers: Retry-After, X-Request-Id"), "{reply}");
    }
}

async fn connect(app: &TestApp) -> TcpStream {
    TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap()
}

/// Reads the connection to its end, as text.
async fn rest(socket: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), socket.read_to_end(&mut text)).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(read.is_ok(), "the connection stays open after {text}");
    text
}

async fn only_a_stream_may_leave_http(app: &TestApp) {
    let alice = app.persona();
    for (path, length) in [
        ("POST /xrpc/blue.catbird.mls.createConvo", "Content-Length: 1\r\n"),
        ("POST /xrpc/blue.catbird.mls.createConvo", "Transfer-Encoding: chunked\r\n"),
        ("GET /health/live", ""),
    ] {
        let mut socket = connect(app).await;
        let token = alice.xrpc.token("blue.catbird.mls.createConvo");
        let head = format!(
            "{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{length}Upgrade: websocket\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let reply = rest(&mut socket).await;
        assert!(reply.starts_with("HTTP/1.1 400 ") && reply.contains("Upgrade"), "{path}: {reply}");
    }
    // Another protocol is ignored and does no harm.
    let mut socket = connect(app).await;
    let head = "GET /health/live HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: close, Upgrade\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    assert!(rest(&mut socket).await.starts_with("HTTP/1.1 200 "));
}

async fn requests_that_come_together_are_answered_in_their_order(app: &TestApp) {
    let mut socket = connect(app).await;
    let mut requests = String::new();
    for n in 0..1_000 {
        let path = if n % 2 == 0 { "/health/live" } else { "/nothing" };
        requests += &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    }
    requests += "GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let (mut from, mut to) = socket.split();
    let mut text = Vec::new();
    let (sent, read) = tokio::join!(to.write_all(requests.as_bytes()), from.read_to_end(&mut text));
    sent.unwrap();
    read.unwrap();
    let text = String::from_utf8(text).unwrap();
    let statuses: Vec<_> = text.split("HTTP/1.1 ").skip(1).map(|reply| &reply[..3]).collect();
    assert_eq!(statuses.len(), 1_001);
    for (n, status) in statuses.iter().enumerate() {
        assert_eq!(*status, if n % 2 == 0 { "200" } else { "404" }, "the reply to request {n}");
    }
}

async fn a_chunked_body_ends_where_it_ends(app: &TestApp) {
    let alice = app.persona();
    let mut socket = connect(app).await;
    let body = serde_json::json!({ "convoId": "none", "isTyping": true, "more": "x".repeat(100_000) }).to_string();
    let mut requests = String::new();
    for n in 0..3 {
        let token = alice.xrpc.token("blue.catbird.mls.sendTypingIndicator");
        let connection = if n == 2 { "Connection: close\r\n" } else { "" };
        requests += &format!(
            "POST /xrpc/blue.catbird.mls.sendTypingIndicator HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
             {connection}Transfer-Encoding: chunked\r\n\r\n"
        );
        for chunk in body.as_bytes().chunks(7_000) {
            requests += &format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap());
        }
        requests += "0\r\n\r\n";
    }
    let (mut from, mut to) = socket.split();
    let mut text = String::new();
    let (sent, read) = tokio::join!(to.write_all(requests.as_bytes()), from.read_to_string(&mut text));
    sent.unwrap();
    read.unwrap();
    assert_eq!(text.matches("ConvoNotFound").count(), 3, "{text}");
}

async fn pages_have_content_types_that_browsers_do_not_guess(app: &TestApp) {
    let alice = app.persona();
    assert_eq!(get(&alice, "getConvos", &[]).await.headers["x-content-type-options"], "nosniff");
    for page in ["/health/live", "/lexicons", "/nothing"] {
        let reply = alice.xrpc.http.get(format!("{}{page}", app.base)).send().await.unwrap();
        assert_eq!(reply.headers()["x-content-type-options"], "nosniff", "{page}");
    }
}
