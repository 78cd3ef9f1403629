//! P5 when transaction ids repeat: PostgreSQL crashes, or another cluster has the data. No client misses an entry, and
//! none gets entries of an ended membership again.

use std::process::Command;
use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Event, EventStream, Reply};
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::tools::{count, eventually, message};

/// Maximum time until an expected event arrives.
const PATIENCE: Duration = Duration::from_secs(60);
const AHEAD: &str = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint where $1 <> ''";

/// Entries with ids that a cursor's snapshot had seen as used reach clients that return with it.
pub async fn ids_that_come_again_after_a_crash_hide_nothing(mode: Mode) {
    let mut cluster = OwnCluster::start().await;
    // Unflushed write-ahead log stays in memory for ten seconds instead of a fifth of one, so that the crash loses it.
    connect(&cluster.url()).await.batch_execute("alter system set wal_writer_delay = '10s'").await.unwrap();
    cluster.stop().await;
    cluster.resume().await;
    let fleet = Fleet::start(&[mode], &cluster.config(), &cluster.url()).await;
    let members = fleet.conversation(2).await;
    let mut came_again = false;
    for _ in 0..5 {
        let client = connect(&cluster.url()).await;
        let mut stream = follow(&members[1], None).await.unwrap();
        burn(&client, 300).await;
        let seen = count(&client, AHEAD, "now").await;
        let typing = json!({ "convoId": members[0].convo().unwrap(), "isTyping": true });
        let mut cursor = String::new();
        // An event carries the cursor of the pass before its own, so the second one's is from after those ids.
        for _ in 0..2 {
            eventually("a typing indicator is accepted", async || {
                members[0].xrpc.procedure("sendTypingIndicator", &typing).await.unwrap().status == 200
            })
            .await;
            cursor = next(&mut stream, "typingEvent").await.id;
        }

        cluster.restart_immediate().await;
        let client = connect(&cluster.url()).await;
        let survived = count(&client, AHEAD, "now").await;
        let mut sent = Vec::new();
        for text in ["one", "two", "three"] {
            sent.push(send(&members[0], text).await);
        }
        let newest = "select max(tx::text::bigint) from messages where convo_id = $1";
        let newest = count(&client, newest, members[0].convo().unwrap()).await;
        burn(&client, (seen - survived).max(0) + 100).await;

        // The stream that stayed open was cut and told where to resume; until then new streams are cut as well.
        let rest = rest(&mut stream).await;
        assert_eq!(rest.last().map(|event| &event.data["info"]), Some(&"reset".into()), "{rest:?}");
        let mut again = follow(&members[1], Some(&cursor)).await.unwrap();
        let replayed = until(&mut again, |event| event.data["info"] == "replayed").await;
        let seqs: Vec<u64> = replayed.iter().filter_map(seq).collect();
        assert!(sent.iter().all(|seq| seqs.contains(seq)), "{seqs:?} lack some of {sent:?}");
        came_again |= newest < seen;
        // PostgreSQL may have flushed the ids by chance.
        if came_again {
            break;
        }
    }
    assert!(came_again, "no crash lost a transaction id");
    fleet.check().await;
}

/// A dump of a cluster with higher ids continues in another cluster, in another database of its own cluster, and over
/// its own tables. Old cursors are refused, new ones resume, and ended memberships stay ended.
pub async fn a_restored_dump_refuses_old_cursors_and_goes_on(mode: Mode) {
    let there = OwnCluster::start().await;
    let before = connect(&there.url()).await;
    burn(&before, 5_000).await;
    let fleet = Fleet::start(&[mode], &there.config(), &there.url()).await;
    let members = fleet.conversation(2).await;
    let mut stream = follow(&members[1], None).await.unwrap();
    let (convo, did) = (members[0].convo().unwrap(), members[1].did());
    // Each event is awaited before the next: a stream that gets both at once is cut and resumes.
    for (method, body, event) in [
        ("leaveConvo", json!({ "convoId": convo, "targetDid": did }), "removedEvent"),
        ("addMembers", json!({ "convoId": convo, "didList": [did] }), "conversationEvent"),
    ] {
        let reply = members[0].xrpc.procedure(method, &body).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
        next(&mut stream, event).await;
    }
    let first = send(&members[0], "before the dump").await;
    let cursor = until(&mut stream, |event| seq(event) == Some(first)).await.pop().unwrap().id;
    // Retention has run.
    before.batch_execute("update event_horizon set tx = pg_snapshot_xmax(pg_current_snapshot())").await.unwrap();
    let dump = std::env::temp_dir().join(format!("catbird-{}.dump", ulid::Ulid::new()));
    tool("pg_dump", &["--format=custom", "--file", dump.to_str().unwrap(), &there.url()]);
    let lost = send(&members[0], "after the dump").await;
    let later = until(&mut stream, |event| seq(event) == Some(lost)).await.pop().unwrap().id;

    let elsewhere = OwnCluster::start().await;
    before.batch_execute("create database another").await.unwrap();
    let another = there.url().replace("/catbird", "/another").replace("//another", "//catbird");
    for url in [elsewhere.url(), another, there.url()] {
        tool(
            "pg_restore",
            &["--clean", "--if-exists", "--single-transaction", "--dbname", &url, dump.to_str().unwrap()],
        );
        let restored = Fleet::start(&[mode], &url.parse().unwrap(), &url).await;
        let at = |who: &Persona| who.xrpc.at(restored.replicas[0].base.parse().unwrap());
        let (alice, bob) = (at(&members[0]), at(&members[1]));
        for old in [&cursor, &later] {
            let reply =
                bob.follow("streamConvoEvents", &[], Some(old)).await.unwrap().err().expect("a cursor of another time");
            assert_eq!((reply.status, &reply.body["error"]), (410, &"OutdatedCursor".into()), "{url}: {reply}");
        }
        let mut stream = bob.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
        stream.skip().await.unwrap();
        let begin = stream.last_id.clone().unwrap();
        let reply = alice.procedure("sendMessage", &message(&members[0], "after the restore")).await.unwrap();
        assert_eq!((reply.status, reply.body["seq"].as_u64()), (200, Some(lost)), "{reply}");
        // Beyond the ids of the rows from the dump.
        burn(&connect(&url).await, 6_000).await;
        let reply = alice.procedure("sendMessage", &message(&members[0], "at last")).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
        let live = until(&mut stream, |event| seq(event) == Some(lost + 1)).await;
        let mut again = bob.follow("streamConvoEvents", &[], Some(&begin)).await.unwrap().unwrap();
        let replayed = until(&mut again, |event| event.data["info"] == "replayed").await;
        for events in [live, replayed] {
            let over: Vec<&Event> = events.iter().filter(|event| event.name == "removedEvent").collect();
            assert!(over.is_empty(), "{url}: {over:?}");
            assert_eq!(events.iter().filter_map(seq).collect::<Vec<_>>(), [lost, lost + 1], "{url}");
        }
        restored.check().await;
    }
    // The server that ran while its tables were replaced has closed its streams.
    let rest = rest(&mut stream).await;
    assert_eq!(rest.last().map(|event| &event.data["info"]), Some(&"reset".into()), "{rest:?}");
    std::fs::remove_file(dump).unwrap();
}

async fn send(sender: &Persona, text: &str) -> u64 {
    let body = message(sender, text);
    let mut reply = sender.xrpc.procedure("sendMessage", &body).await.unwrap();
    let start = tokio::time::Instant::now();
    while reply.status == 503 && start.elapsed() < PATIENCE {
        reply = sender.xrpc.procedure("sendMessage", &body).await.unwrap();
    }
    assert_eq!(reply.status, 200, "{reply}");
    reply.number("seq").unwrap()
}

/// Opens a stream, from a cursor if there is one, once the server has recovered.
async fn follow(who: &Persona, cursor: Option<&str>) -> Result<EventStream, Reply> {
    let start = tokio::time::Instant::now();
    loop {
        match who.xrpc.follow("streamConvoEvents", &[], cursor).await.unwrap() {
            Ok(mut stream) => {
                stream.skip().await.unwrap();
                return Ok(stream);
            }
            Err(reply) if reply.status == 503 && start.elapsed() < PATIENCE => {}
            Err(reply) => return Err(reply),
        }
    }
}

async fn until(stream: &mut EventStream, mut is_last: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.next()).await;
        let event = next.unwrap_or_else(|_| panic!("no such event came, but {events:?}")).unwrap();
        let event = event.unwrap_or_else(|| panic!("the stream ended after {events:?}"));
        let last = is_last(&event);
        events.push(event);
        if last {
            return events;
        }
    }
}

async fn next(stream: &mut EventStream, name: &str) -> Event {
    until(stream, |event| event.name == name).await.pop().unwrap()
}

async fn rest(stream: &mut EventStream) -> Vec<Event> {
    let mut rest = Vec::new();
    while let Some(event) =
        tokio::time::timeout(PATIENCE, stream.next()).await.expect("the stream did not end").unwrap()
    {
        rest.push(event);
    }
    rest
}

fn seq(event: &Event) -> Option<u64> {
    event.data["message"]["seq"].as_u64()
}

/// Consumes this many transaction ids.
async fn burn(client: &Client, ids: i64) {
    let loops = format!("do $$ begin for i in 1..{ids} loop perform pg_current_xact_id(); commit; end loop; end $$");
    client.batch_execute(&loops).await.unwrap();
}

/// Runs a program of PostgreSQL beside a running server. A deadlock with the server ends the server's statement, which it repeats: whoever
/// looks for a deadlock first is ended.
fn tool(name: &str, arguments: &[&str]) {
    let done = Command::new(name).args(arguments).env("PGOPTIONS", "-c deadlock_timeout=1min").output().unwrap();
    assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
}

async fn connect(url: &str) -> Client {
    let (client, connection) = url.parse::<tokio_postgres::Config>().unwrap().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
