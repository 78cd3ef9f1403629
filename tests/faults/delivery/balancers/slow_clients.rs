//! Slow clients: heads and bodies that do not arrive. They take their own connections only, and the balancer closes them in time.

use std::time::Instant;

use catbird_testkit::balancer::HaProxy;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::*;

/// Address of the slow clients.
const SLOW: &str = "127.0.0.2:0";
/// Connections of one address.
const MOST: usize = 200;
/// Interval between two bytes. None is due when HAProxy closes the connection, after 10 seconds: a byte that arrives then discards the reply.
const BYTE_INTERVAL: Duration = Duration::from_secs(4);
/// Time in which the connections must be closed once the other client has its replies. Without the limit on the time of a head, each would last for hours.
const CLOSED_WITHIN: Duration = Duration::from_secs(60);

const HEAD: &str = "GET /xrpc/blue.catbird.mls.getConvos HTTP/1.1\r\nHost: mls.test\r\nX-Slow: ";
const BODY: &str =
    "POST /xrpc/blue.catbird.mls.sendMessage HTTP/1.1\r\nHost: mls.test\r\nContent-Length: 5000\r\n\r\n{\"convoId\": ";

async fn connect(base: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SLOW.parse().unwrap())?;
    socket.connect(base.trim_start_matches("http://").parse().unwrap()).await
}

/// Sends a request on a connection of its own. Returns false if the connection ends without a reply.
async fn is_served(base: &str) -> bool {
    let Ok(mut socket) = connect(base).await else { return false };
    let _ = socket.write_all(b"GET /lexicons HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let mut reply = Vec::new();
    let _ = socket.read_to_end(&mut reply).await;
    !reply.is_empty()
}

/// Sends the beginning of a request, then a byte now and then. Returns the reply with which the connection ends.
async fn dribble(mut socket: TcpStream, begin: &'static str) -> String {
    socket.write_all(begin.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    loop {
        let mut more = [0; 1024];
        match tokio::time::timeout(BYTE_INTERVAL, socket.read(&mut more)).await {
            Ok(Ok(0) | Err(_)) => return String::from_utf8_lossy(&reply).into_owned(),
            Ok(Ok(read)) => reply.extend_from_slice(&more[..read]),
            Err(_) => drop(socket.write_all(b"x").await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_slow_clients_hold_up_no_other_and_are_closed_in_time() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let haproxy = HaProxy::start([&*replica.base; 3], &[("CONNECTIONS_PER_ADDRESS", &MOST.to_string())]);
    let fast = catbird_testkit::app::validated(&haproxy.base(), &catbird_client::random_did());
    let mut slow = JoinSet::new();
    for n in 0..MOST {
        let socket = connect(&haproxy.base()).await.unwrap();
        slow.spawn(dribble(socket, if n % 2 == 0 { HEAD } else { BODY }));
    }
    // Its threads count connections in any order, so that a further one would take the place of one of these before all are counted.
    let all = format!("conn_cur={MOST}");
    until("all connections", async || haproxy.command("show table addresses").contains(&all)).await;
    assert!(!is_served(&haproxy.base()).await, "one connection more than the limit");
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let begin = Instant::now();
        let reply = fast.procedure("createConvo", &json!({ "groupId": hex_id(), "cipherSuite": SUITE })).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
        slowest = slowest.max(begin.elapsed());
    }
    let open = metric(&replica.base, "http_connections_open").await.unwrap();
    assert!(open < 20.0, "{open} connections: the replica sees slow clients");
    println!("{MOST} slow clients: the slowest of 100 writes of another client took {slowest:?}");
    let replies = tokio::time::timeout(CLOSED_WITHIN, slow.join_all()).await.expect("they are closed in time");
    assert!(is_served(&haproxy.base()).await, "the address may connect again");
    for reply in replies {
        assert!(reply.starts_with("HTTP/1.1 408 "), "{reply}");
    }
}

const SUITE: &str = "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519";

fn hex_id() -> String {
    catbird_client::persona::hex(catbird_client::random_did().as_bytes())
}
