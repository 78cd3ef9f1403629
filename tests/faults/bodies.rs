//! P2, P4 and P10 for ciphertexts in the blob store: one that hangs delays who needs a ciphertext from it and nobody else, and a replica that
//! is killed at any step of a large message leaves the message whole or not at all.

use std::time::{Duration, Instant};

use catbird_client::persona::{Persona, hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::{Event, EventStream, Reply, bytes_value, decode_bytes};
use catbird_server::bodies::{MIN_BODY_BYTES, READ_TIME};
use catbird_server::config::Config;
use catbird_testkit::app::validated;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::{Fault, S3Server};
use serde_json::{Value, json};

use super::blobs::{block, stored_after_deletions, unblock};
use super::tools::{eventually, lock_waiters};

/// Time for an event to arrive that waits for nothing.
const AT_ONCE: Duration = Duration::from_secs(4);

async fn replica(mode: Mode, url: &str, s3: &S3Server) -> Replica {
    let mut settings = s3.settings();
    settings.push(("RETENTION_INTERVAL_SECONDS", "1".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    Replica::start(mode, url, &settings).await
}

async fn room(creator: &Persona, other: &Persona, model: &str) -> String {
    let creation = json!({
        "groupId": hex(random_did().as_bytes()),
        "cipherSuite": creator.mls.suite_name(),
        "initialMembers": [other.did()],
        "storageModel": model,
    });
    creator.xrpc.procedure("createConvo", &creation).await.unwrap().string("id").unwrap().to_owned()
}

fn message(convo: &str, ciphertext: &[u8]) -> Value {
    json!({ "convoId": convo, "ciphertext": bytes_value(ciphertext), "epoch": 0, "msgId": unique() })
}

async fn send(sender: &Persona, message: &Value) -> Reply {
    let reply = sender.xrpc.procedure("sendMessage", message).await.unwrap();
    assert!(reply.is_ok(), "{reply}");
    reply
}

async fn log(reader: &Persona, convo: &str) -> Reply {
    let parameters = [("convoId", convo.to_owned()), ("sinceSeq", "0".to_owned())];
    reader.xrpc.query("getMessages", &parameters).await.unwrap()
}

async fn follow(reader: &Persona, convo: Option<&str>, cursor: Option<&str>) -> EventStream {
    let convo = convo.map(|convo| ("convoId", convo.to_owned()));
    let parameters: Vec<_> = convo.into_iter().collect();
    let mut stream = reader.xrpc.follow("streamConvoEvents", &parameters, cursor).await.unwrap().unwrap();
    stream.skip().await.unwrap();
    stream
}

/// Returns the next event that a test waits for.
async fn next(stream: &mut EventStream, is_wanted: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = stream.next().await.unwrap().expect("the stream goes on");
        if is_wanted(&event) {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_hanging_blob_store_delays_nobody_who_needs_nothing_from_it() {
    let mode = Mode::Advisory;
    let database = database().await;
    let s3 = S3Server::start();
    let (here, there) = (replica(mode, &database.url, &s3).await, replica(mode, &database.url, &s3).await);
    let persona = |replica: &Replica, did: &str| Persona::new(validated(&replica.base, did));
    let (alice, bob) = (random_did(), random_did());
    let (alice, bob) = (persona(&here, &alice), persona(&there, &bob));
    let (convo, plain) = (room(&alice, &bob, "blob").await, room(&alice, &bob, "database").await);
    let mut of_both = follow(&bob, None, None).await;
    let mut of_plain = follow(&bob, Some(&plain), None).await;
    s3.fail_at("GET", Fault::Hang);
    let large = vec![7; MIN_BODY_BYTES];
    send(&alice, &message(&convo, &large)).await;
    let is_message = |event: &Event| event.name == "messageEvent";
    // A ciphertext of the same size in the database.
    send(&alice, &message(&plain, &large)).await;
    let event = tokio::time::timeout(AT_ONCE, next(&mut of_plain, is_message)).await.expect("it waits for nothing");
    assert!(decode_bytes(&event.data["message"]["ciphertext"]).unwrap() == large);
    let mut late = follow(&bob, Some(&convo), None).await;
    send(&alice, &message(&convo, b"small")).await;
    let event = tokio::time::timeout(AT_ONCE, next(&mut late, is_message)).await.expect("it waits for nothing");
    assert_eq!(event.data["message"]["seq"], 2);
    let begun = Instant::now();
    let (refused, end) = tokio::join!(log(&bob, &convo), next(&mut of_both, |event| event.name == "infoEvent"));
    assert_eq!((refused.status, refused.error()), (503, Some("BlobStoreUnavailable")), "{refused}");
    assert_eq!(end.data["info"], "reset");
    assert!(begun.elapsed() < READ_TIME + Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(log(&bob, &plain).await.list("messages").unwrap().len(), 1);

    s3.fail(Fault::None);
    let mut resumed = follow(&bob, None, Some(&end.id)).await;
    let mut seqs = Vec::new();
    while seqs.len() < 3 {
        let event = next(&mut resumed, is_message).await;
        let ciphertext = decode_bytes(&event.data["message"]["ciphertext"]).unwrap();
        seqs.push((event.data["message"]["convoId"] == convo, event.data["message"]["seq"].as_u64(), ciphertext.len()));
    }
    seqs.sort();
    assert_eq!(seqs, [(false, Some(1), large.len()), (true, Some(1), large.len()), (true, Some(2), 5)]);
}

/// The step that does not go on.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A statement that changes rows of a table.
    Rows(&'static str, &'static str),
    /// A request to the blob store.
    Put,
}

/// Every step of a large message at which something is written.
const STEPS: [Step; 5] = [
    Step::Rows("insert", "blobs"),
    Step::Put,
    Step::Rows("insert", "messages"),
    Step::Rows("update", "blobs"),
    Step::Rows("insert", "blob_references"),
];

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_replica_killed_at_any_step_of_a_large_message_loses_and_leaks_nothing() {
    let mode = Mode::Actors;
    let database = database().await;
    let (db, holder) = (database.connect().await, database.connect().await);
    let s3 = S3Server::start();
    let mut running = replica(mode, &database.url, &s3).await;
    let did = random_did();
    let mut alice = Persona::new(validated(&running.base, &did));
    let convo = room(&alice, &alice, "blob").await;
    let mut expected = Vec::new();
    for (n, step) in (0..).zip(STEPS) {
        let ciphertext = vec![n; MIN_BODY_BYTES];
        let message = message(&convo, &ciphertext);
        let before = s3.requests().len();
        match step {
            Step::Rows(event, table) => block(&holder, event, table).await,
            Step::Put => s3.fail_at("PUT", Fault::Hang),
        }
        let doomed = {
            let (xrpc, message) = (alice.xrpc.with_own_connections(), message.clone());
            tokio::spawn(async move { xrpc.procedure("sendMessage", &message).await })
        };
        match step {
            Step::Rows(..) => lock_waiters(&db, 1).await,
            Step::Put => {
                let hangs = async || s3.requests()[before..].iter().any(|request| request.starts_with("PUT"));
                eventually("the request hangs", hangs).await;
            }
        }
        running.kill();
        assert!(doomed.await.unwrap().is_err(), "{step:?}: the replica was killed before it could answer");
        match step {
            Step::Rows(_, table) => unblock(&holder, table).await,
            Step::Put => s3.fail(Fault::None),
        }
        running = replica(mode, &database.url, &s3).await;
        alice = Persona::new(validated(&running.base, &did));
        send(&alice, &message).await;
        expected.push(ciphertext);
    }
    let found = log(&alice, &convo).await;
    let found: Vec<_> =
        found.list("messages").unwrap().iter().map(|one| decode_bytes(&one["ciphertext"]).unwrap()).collect();
    assert!(found == expected, "each message once");
    let config = Config::from_variables(s3.settings()).unwrap();
    let stored = stored_after_deletions(&db, &database.config, &config.blob_store).await;
    let bodies: i64 =
        db.query_one("select count(*) from messages where body_key is not null", &[]).await.unwrap().get(0);
    assert_eq!((stored.len() as i64, bodies), (5, 5), "the bytes of each message, and no others");
}
