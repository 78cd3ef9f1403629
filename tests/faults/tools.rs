//! What the tests of faults have in common.

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{self, bytes_value};
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::Client;

/// How long a condition may take to come true.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The value of a metric of a replica, its labels included in the name; 0 while it has none.
pub async fn metric(replica: &Replica, name: &str) -> f64 {
    let page = xrpc::http().unwrap().get(format!("{}/metrics", replica.base)).send().await.unwrap();
    let text = page.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

/// Waits until a replica holds no connection and nobody waits for one, and has a plain request answered.
pub async fn recovered(replica: &Replica, member: &Persona) {
    eventually("the pool is whole again", async || {
        metric(replica, "database_connections_active").await == 0.0
            && metric(replica, "database_connections_waiting").await == 0.0
    })
    .await;
    let reply = member.xrpc.at(replica.base.parse().unwrap()).query("getConvos", &[]).await.unwrap();
    assert_eq!(reply.status, 200, "a plain request after the fault: {reply}");
}

/// A message that the server cannot look into. Its text makes it unique.
pub fn message(sender: &Persona, text: &str) -> Value {
    json!({
        "convoId": sender.convo().unwrap(),
        "ciphertext": bytes_value(format!("opaque {text}").as_bytes()),
        "epoch": sender.epoch().unwrap(),
        "senderDid": sender.did(),
    })
}

/// The only value of a query with one text parameter.
pub async fn count(client: &Client, query: &str, parameter: &str) -> i64 {
    client.query_one(query, &[&parameter]).await.unwrap().get(0)
}

/// How many entries the log of a conversation has.
pub async fn entries(client: &Client, convo: &str) -> i64 {
    count(client, "select count(*) from messages where convo_id = $1", convo).await
}

/// Waits until so many backends of servers under test wait for a lock in this database.
pub async fn lock_waiters(client: &Client, backends: i64) {
    const WAITING: &str = "select count(*) from pg_stat_activity
        where datname = current_database() and application_name = $1 and wait_event_type = 'Lock'";
    eventually("a transaction waits for a lock", async || count(client, WAITING, "catbird-server").await >= backends)
        .await;
}

/// The statement by which replicas of either kind append application messages, by which the proxy knows their transactions.
pub const SEND: &str = "messages/append_batch";

/// The statement by which a replica of this kind accepts a commit that adds somebody.
pub fn accepts_commits(mode: Mode) -> &'static str {
    if mode == Mode::Advisory { "members/add_batch" } else { "messages/append_commit" }
}
