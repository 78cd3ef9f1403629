//! `catbird-server admin`: what it prints, changes, tells members, records, and completes after an interruption.

mod bodies;
mod delete;
mod erase;
mod read;

use std::time::Duration;

use catbird_client::xrpc::{Event, EventStream};
use catbird_testkit::cluster::TestDatabase;
use catbird_testkit::fleet::run_with;
use serde_json::Value;
use tokio_postgres::Client;

/// Time for an event to arrive: the tail polls once a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs a command with a reason. Returns its exit code, output and errors.
async fn attempt(database: &TestDatabase, arguments: &[&str]) -> (Option<i32>, String, String) {
    run_with(&[&["admin"], arguments, &["--reason", "ticket 7"]].concat(), &database.url).await
}

/// Runs a command with a reason, which must succeed, and returns its output.
async fn admin(database: &TestDatabase, arguments: &[&str]) -> String {
    let (code, said, errors) = attempt(database, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {errors}");
    said
}

/// Runs a list, which takes no reason.
async fn list(database: &TestDatabase, arguments: &[&str]) -> String {
    let (code, said, errors) = run_with(&[&["admin"], arguments].concat(), &database.url).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{arguments:?}");
    said
}

/// Numbers that a command prints after its target.
fn counts(said: &str) -> Value {
    serde_json::from_str(said.trim_end().split_once(' ').unwrap().1).unwrap()
}

/// Returns the base tables of the schema.
async fn tables(db: &Client) -> Vec<String> {
    let query =
        "select relname::text from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' order by 1";
    db.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Digest of each table's rows.
async fn contents(db: &Client) -> Vec<(String, Option<String>)> {
    let mut digests = Vec::new();
    for table in tables(db).await {
        let query = format!("select md5(string_agg(md5(t::text), '' order by md5(t::text))) from {table} t");
        digests.push((table, db.query_one(&query, &[]).await.unwrap().get(0)));
    }
    digests
}

/// Waits for an event that a predicate accepts.
async fn event(stream: &mut EventStream, wanted: impl Fn(&Event) -> bool) -> Event {
    let find = async {
        loop {
            let event = stream.next().await.unwrap().expect("the stream ended");
            if wanted(&event) {
                return event;
            }
        }
    };
    tokio::time::timeout(PATIENCE, find).await.expect("the event arrives")
}
