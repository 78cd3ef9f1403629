//! Clients that disconnect before the reply, or in the middle of the request.

use std::time::Duration;

use catbird_client::mls::DEFAULT_SUITE;
use catbird_client::persona::{Persona, hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Xrpc, nsid};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_postgres::Client;

use super::tools::{message, recovered};

const REQUESTS: usize = 300;

/// Messages, new conversations and additions to a roster, each with its own key.
fn request(members: &[Persona], n: usize) -> (&Xrpc, &'static str, Value) {
    let caller = &members[n % members.len()];
    let (method, mut body) = match n % 3 {
        0 => ("sendMessage", message(caller, &n.to_string())),
        1 => {
            let group = hex(random_did().as_bytes());
            ("createConvo", json!({ "groupId": group, "cipherSuite": format!("{DEFAULT_SUITE:?}") }))
        }
        _ => ("addMembers", json!({ "convoId": caller.convo().unwrap(), "didList": [random_did()] })),
    };
    body["idempotencyKey"] = json!(format!("hang-up {} {n}", unique()));
    (&caller.xrpc, method, body)
}

/// Sends a request, or every seventh time only its first half, and disconnects after up to fifteen milliseconds.
async fn hang_up(n: usize, xrpc: &Xrpc, method: &str, body: &Value) {
    let nsid = nsid(method);
    let (host, body) = (xrpc.base.authority(), body.to_string());
    let text = format!(
        "POST /xrpc/{nsid} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        xrpc.token(&nsid),
        body.len()
    );
    let sent = if n.is_multiple_of(7) { &text[..text.len() - body.len() / 2] } else { &text };
    let mut connection = TcpStream::connect(host).await.unwrap();
    // Every second client resets the connection: a reset makes the server drop its work for the client.
    if n.is_multiple_of(2) {
        connection.set_zero_linger().unwrap();
    }
    connection.write_all(sent.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_micros((n * 1_373 % 15_000) as u64)).await;
}

/// Counts the effects of each kind in one snapshot: as many effects as records of keys, so that each request is
/// complete or absent.
async fn whole(client: &Client, convo: &str) -> [i64; 3] {
    const KINDS: [(&str, &str); 3] = [
        ("sendMessage", "select count(*) from messages where convo_id = $1 and message_type = 'app'"),
        ("createConvo", "select count(*) from conversations c join members on convo_id = c.id where c.id <> $1"),
        ("addMembers", "select count(*) - 3 from members where convo_id = $1"),
    ];
    let mut landed = [0; 3];
    for (landed, (method, traces)) in landed.iter_mut().zip(KINDS) {
        let records = "select count(*) from idempotency_records where key like 'hang-up %' and method = $2";
        let row = client.query_one(&format!("select ({traces}), ({records})"), &[&convo, &method]).await.unwrap();
        *landed = row.get(1);
        assert_eq!(row.get::<_, i64>(0), *landed, "{method}: some are not whole");
    }
    landed
}

pub async fn a_client_that_hangs_up_leaves_a_whole_mutation_or_none(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
    let members = fleet.conversation(3).await;
    let convo = members[0].convo().unwrap();
    let client = database.connect().await;
    let requests: Vec<_> = (0..REQUESTS).map(|n| request(&members, n)).collect();
    stream::iter(requests.iter().enumerate())
        .for_each_concurrent(20, |(n, (xrpc, method, body))| hang_up(n, xrpc, method, body))
        .await;
    // Work in progress is finished although no client waits for it.
    recovered(&fleet.replicas[0], &members[0]).await;
    let landed: i64 = whole(&client, convo).await.iter().sum();
    assert!(0 < landed && landed < REQUESTS as i64, "{landed} of {REQUESTS} were done: some have to be, and some not");
    fleet.check().await;

    // Nothing blocks new requests: each client retries properly, and each request has happened once.
    stream::iter(&requests)
        .for_each_concurrent(20, |(xrpc, method, body)| async move {
            let reply = xrpc.procedure(method, body).await.unwrap();
            assert_eq!(reply.status, 200, "{reply}");
        })
        .await;
    assert_eq!(whole(&client, convo).await, [REQUESTS as i64 / 3; 3]);
    recovered(&fleet.replicas[0], &members[0]).await;
    fleet.check().await;
}
