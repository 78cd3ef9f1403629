//! Bodies that are large, incomplete, or without a length: the callers that pay for them, and the callers that wait for
//! them.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{bytes_value, nsid};
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::limits::{ask, metric, until};

const MIB: usize = 1 << 20;

/// Opens a connection and sends only the head of a call.
async fn begin(base: &str, method: &str, token: &str, length: &str) -> TcpStream {
    let mut socket = TcpStream::connect(base.trim_start_matches("http://").trim_end_matches('/')).await.unwrap();
    let head =
        format!("POST /xrpc/{} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{length}\r\n\r\n", nsid(method));
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// Returns the status of the reply.
async fn status(socket: &mut TcpStream) -> u16 {
    let mut line = [0; "HTTP/1.1 200".len()];
    socket.read_exact(&mut line).await.unwrap();
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_large_body_is_charged_as_it_comes_and_comes_no_faster_than_its_senders_rate() {
    // One second's worth is less than two of these mebibytes.
    let app = TestApp::with(&[("RATE_LIMIT_PER_DID", "15")]).await;
    let alice = app.persona();
    let token = alice.xrpc.token(&nsid("sendMessage"));
    let mut socket = begin(&app.base, "sendMessage", &token, &format!("Content-Length: {}", 8 * MIB)).await;
    let sending = tokio::spawn(async move {
        let _ = socket.write_all(&vec![b' '; 7 * MIB]).await;
        socket
    });
    let begun = Instant::now();
    let charged = async || metric(&app.base, "request_cost_units_total{for=\"bytes\"}").await.unwrap_or_default();
    until("the charge for what has come", async || charged().await > 20.0).await;
    // It arrives at the sender's rate, and leaves half of a burst.
    assert!(charged().await < 15.0 * (2.0 + begun.elapsed().as_secs_f64()));
    assert_eq!(ask(&alice.xrpc).await.status, 200);
    drop(sending.await.unwrap());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_p12_a_used_token_takes_no_slot_of_its_owner() {
    let database = database().await;
    let settings = [("RATE_LIMIT_PER_DID", "10000")];
    let fleet = Fleet::with(&[Mode::Advisory; 2], &database.config, &database.url, &settings).await;
    let did = random_did();
    let (owner, elsewhere) = (fleet.xrpc(0, &did), fleet.xrpc(1, &did));
    let send = nsid("sendMessage");
    let token = owner.token(&send);
    let large = json!({ "convoId": "none", "ciphertext": bytes_value(&vec![7; MIB]), "epoch": 0 });
    let request = owner.http.post(owner.url(&send, &[])).bearer_auth(&token).json(&large);
    assert_eq!(owner.send(&send, request).await.unwrap().status, 404, "it is used now");

    // The other replica does not know it. Neither announced large bodies nor chunked ones wait in the owner's queue.
    for length in [format!("Content-Length: {MIB}"), "Transfer-Encoding: chunked".to_owned()] {
        let mut sockets = Vec::new();
        for _ in 0..2 * catbird_server::limits::max_concurrent() {
            let mut socket = begin(elsewhere.base.as_str(), "sendMessage", &token, &length).await;
            // It may be refused before the server has read all of this.
            let _ = socket.write_all(format!("{:x}\r\n{}", MIB, " ".repeat(MIB / 2)).as_bytes()).await;
            sockets.push(socket);
        }
        let reply = elsewhere.procedure("sendMessage", &large).await.unwrap();
        assert_eq!(reply.status, 404, "the owner has its turn: {reply}");
        for mut socket in sockets {
            assert_eq!(status(&mut socket).await, 401, "{length}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_small_bodies_without_a_length_need_no_turn() {
    let app = TestApp::with(&[("RATE_LIMIT_PER_DID", "100")]).await;
    let members = app.conversation(1).await;
    let alice: &Persona = &members[0];
    let body = json!({ "convoId": alice.convo().unwrap() }).to_string();
    let mut sockets = Vec::new();
    for _ in 0..40 {
        let token = alice.xrpc.token(&nsid("updateRead"));
        let chunked = "Transfer-Encoding: chunked\r\nExpect: 100-continue";
        sockets.push(begin(&app.base, "updateRead", &token, chunked).await);
    }
    for socket in &mut sockets {
        let mut asks_for_the_body = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
        socket.read_exact(&mut asks_for_the_body).await.unwrap();
        assert!(asks_for_the_body.starts_with(b"HTTP/1.1 100 "));
    }
    // The last one is answered while the earlier ones have no body yet.
    for socket in sockets.iter_mut().rev() {
        socket.write_all(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).as_bytes()).await.unwrap();
        let status = tokio::time::timeout(Duration::from_secs(5), status(socket)).await;
        assert_eq!(status.expect("it waits for those that came before it"), 200);
    }
    app.finish().await;
}
