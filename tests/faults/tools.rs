//! Helpers of the fault tests.

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{self, bytes_value};
use catbird_testkit::fleet::Replica;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;

/// Maximum time until a condition holds.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the value of a replica's metric, with the labels in the name; 0 if it does not exist.
pub async fn metric(replica: &Replica, name: &str) -> f64 {
    let page = xrpc::http().unwrap().get(format!("{}/metrics", replica.base)).send().await.unwrap();
    let text = page.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until a replica holds no connection and no request waits for one, and answers a plain request.
pub async fn recovered(replica: &Replica, member: &Persona) {
    eventually("the pool is whole again", async || {
        metric(replica, "database_connections_active").await == 0.0
            && metric(replica, "database_connections_waiting").await == 0.0
    })
    .await;
    let reply = member.xrpc.at(replica.base.parse().unwrap()).query("getConvos", &[]).await.unwrap();
    assert_eq!(reply.status, 200, "a plain request after the fault: {reply}");
}

/// Builds an opaque message. Its text makes it unique.
pub fn message(sender: &Persona, text: &str) -> Value {
    json!({
        "convoId": sender.convo().unwrap(),
        "ciphertext": bytes_value(format!("opaque {text}").as_bytes()),
        "epoch": sender.epoch().unwrap(),
        "senderDid": sender.did(),
    })
}

/// Returns the only value of a query with one text parameter.
pub async fn count(client: &Client, query: &str, parameter: &str) -> i64 {
    client.query_one(query, &[&parameter]).await.unwrap().get(0)
}

/// Counts the entries in the log of a conversation.
pub async fn entries(client: &Client, convo: &str) -> i64 {
    count(client, "select count(*) from messages where convo_id = $1", convo).await
}

/// Waits until this many backends of servers under test wait for a lock in this database.
pub async fn lock_waiters(client: &Client, backends: i64) {
    const WAITING: &str = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = $1 and wait_event_type = 'Lock'";
    eventually("a transaction waits for a lock", async || count(client, WAITING, "catbird-server").await >= backends)
        .await;
}

/// Statement with which replicas append messages; the proxy identifies their transactions by it.
pub const SEND: &str = "messages/send_message";

/// Statement with which replicas add members, with a commit or without.
pub const ADD: &str = "commits/submit_commit";
