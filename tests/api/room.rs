//! P10 for memory: clients that announce large bodies, send slowly, or repeat requests cost other clients nothing.

use catbird_client::persona::Persona;
use catbird_server::memory::MAX_ARRIVING;
use catbird_testkit::app::TestApp;
use futures_util::future::select_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

any_serializer! {
    p10_announced_bodies_that_do_not_arrive_delay_no_other_request;
    p10_a_refusal_does_not_echo_the_request;
    p10_a_client_that_does_not_read_its_replies_gets_no_more_and_others_do;
    p10_results_of_lost_epochs_are_withheld_from_clients_that_do_not_read_their_replies;
    p10_claimed_key_packages_are_withheld_from_clients_that_do_not_read_their_replies;
    p10_a_request_disguised_as_a_websocket_is_refused_at_once;
}

/// Opens a connection and sends only the head of a call.
async fn begin(app: &TestApp, verb: &str, call: &str, token: &str, headers: &str) -> TcpStream {
    let mut socket = TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "{verb} /xrpc/blue.catbird.mls.{call} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

async fn p10_announced_bodies_that_do_not_arrive_delay_no_other_request(app: &TestApp) {
    let (mallory, bob) = (app.persona(), app.persona());
    let token = mallory.xrpc.token("blue.catbird.mls.sendMessage");
    // One more than a caller may have. A whole request is not sent until they are counted: it would take the place of one of them.
    let mut held = Vec::new();
    for _ in 0..=MAX_ARRIVING {
        let mut socket = begin(app, "POST", "sendMessage", &token, "Content-Length: 262144\r\n").await;
        // Only received bytes take memory, not announced ones, so all of these bodies keep arriving.
        socket.write_all(b"{").await.unwrap();
        held.push(socket);
    }
    let answers: Vec<_> = held.iter_mut().map(|socket| Box::pin(status(socket))).collect();
    let (refusal, _, others) = select_all(answers).await;
    assert_eq!(refusal, 429, "one of them is refused when all others are counted");
    drop(others);
    let body = json!({ "convoId": "none", "isTyping": true });
    let more = refused(ask(&mallory, "sendTypingIndicator", &body).await, 429, "RateLimitExceeded");
    let sentence = format!("you are already sending {MAX_ARRIVING} request bodies");
    assert!(more.text.contains(&sentence), "{more}");
    refused(ask(&bob, "sendTypingIndicator", &body).await, 404, "ConvoNotFound");
    drop(held);
}

async fn p10_a_refusal_does_not_echo_the_request(app: &TestApp) {
    let alice = app.persona();
    let body = json!({ "convoId": "none", "ciphertext": "", "epoch": "\u{e000}".repeat(500_000) });
    let reply = refused(ask(&alice, "sendMessage", &body).await, 400, "InvalidRequest");
    assert!(reply.text.len() < 1_000, "{} bytes", reply.text.len());
    assert!(reply.body["message"].as_str().unwrap().contains("epoch"), "{reply}");
}

/// Returns the status of the reply and reads no further.
async fn status(socket: &mut TcpStream) -> u16 {
    let mut line = [0; "HTTP/1.1 200".len()];
    socket.read_exact(&mut line).await.unwrap();
    std::str::from_utf8(&line[9..]).unwrap().parse().unwrap()
}

async fn p10_a_client_that_does_not_read_its_replies_gets_no_more_and_others_do(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    sql(app, "update conversations set last_seq = last_seq + 2 where id = $1", &[&id]).await;
    let seed = "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
                select id, n, 'large-' || n, $2, 'app', current_epoch, decode(repeat('00', 7 << 20), 'hex')
                  from conversations, generate_series(last_seq - 1, last_seq) n where id = $1";
    sql(app, seed, &[&id, &members[0].did()]).await;
    let page = async |member: usize| {
        let token = members[member].xrpc.token("blue.catbird.mls.getMessages");
        let mut socket = begin(app, "GET", &format!("getMessages?convoId={id}&limit=1&peek=true"), &token, "").await;
        (status(&mut socket).await, socket)
    };
    let mut held = Vec::new();
    let refusal = loop {
        match page(0).await {
            (200, socket) => held.push(socket),
            (refusal, _) => break refusal,
        }
        assert!(held.len() < 16, "{} pages of some 10 MB are held", held.len());
    };
    assert_eq!(refusal, 429);
    assert_eq!(page(1).await.0, 200, "others have room");
    drop(held);
    while page(0).await.0 != 200 {
        tokio::task::yield_now().await;
    }
}

/// Repeats a call without reading the replies, and returns the refusal that ends it. Its connections are closed at the
/// end.
async fn refusal_of_more(app: &TestApp, caller: &Persona, method: &str, body: &Value) -> u16 {
    let text = body.to_string();
    let mut held = Vec::new();
    loop {
        let token = caller.xrpc.token(&format!("blue.catbird.mls.{method}"));
        let headers = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", text.len());
        let mut socket = begin(app, "POST", method, &token, &headers).await;
        socket.write_all(text.as_bytes()).await.unwrap();
        match status(&mut socket).await {
            200 => held.push(socket),
            refusal => break refusal,
        }
        assert!(held.len() < 16, "{} replies of some 10 MB are held", held.len());
    }
}

async fn p10_results_of_lost_epochs_are_withheld_from_clients_that_do_not_read_their_replies(app: &TestApp) {
    let members = app.conversation(2).await;
    let behind = with(&message(&members[1], b"in this epoch"), json!({ "conflict": "result" }));
    seed_entries(app, &members[0], "commit", 1, 7 << 20).await;
    let lost = async || {
        let page = reqwest::get(format!("{}/metrics", app.base)).await.unwrap().text().await.unwrap();
        let line = page.lines().find(|line| line.contains("error=\"EpochMismatch\""));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let before = lost().await;
    let told = ok(ask(&members[1], "sendMessage", &behind).await);
    assert_eq!(told.list("missing").unwrap().len(), 1);
    assert_eq!(lost().await, before + 1, "the metrics count it as an error");
    assert_eq!(refusal_of_more(app, &members[1], "sendMessage", &behind).await, 429);
}

async fn p10_claimed_key_packages_are_withheld_from_clients_that_do_not_read_their_replies(app: &TestApp) {
    let alice = app.persona();
    let owners: Vec<String> = (0..100).map(|n| format!("did:plc:owner{n}")).collect();
    let seed =
        "insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, key_package, last_resort, expires_at)
                select sha256(owner::bytea), sha256(owner::bytea), owner, $2, decode(repeat('00', 65536), 'hex'), false,
                       now() + interval '1 day' from unnest($1::text[]) owner";
    assert_eq!(sql(app, seed, &[&owners, &alice.mls.suite_name()]).await, 100);
    let all = json!({ "dids": owners, "cipherSuite": alice.mls.suite_name() });
    assert_eq!(refusal_of_more(app, &alice, "claimKeyPackages", &all).await, 429);
    // The packages are still available.
    let claimed = loop {
        let reply = ask(&alice, "claimKeyPackages", &all).await;
        if reply.status == 200 {
            break reply;
        }
        refused(reply, 429, "RateLimitExceeded");
    };
    assert_eq!(claimed.list("keyPackages").unwrap().len(), 100);
}

async fn p10_a_request_disguised_as_a_websocket_is_refused_at_once(app: &TestApp) {
    let alice = app.persona();
    for (verb, method, headers) in [
        ("POST", "sendMessage", "Content-Length: 1\r\nUpgrade: websocket\r\n"),
        ("POST", "sendMessage", "Content-Length: 2\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n"),
        ("GET", "getConvos", "Upgrade: websocket\r\n"),
    ] {
        let token = alice.xrpc.token(&format!("blue.catbird.mls.{method}"));
        let mut socket = begin(app, verb, method, &token, headers).await;
        socket.write_all(b"{}").await.unwrap();
        assert_eq!(status(&mut socket).await, 400, "{verb} {headers:?}");
    }
    ok(get(&alice, "getConvos", &[]).await);
}
