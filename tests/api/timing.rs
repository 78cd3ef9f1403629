//! Stages of a request: always in the metrics, and in replies only of servers that accept development tokens.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use catbird_client::xrpc::{Reply, nsid};
use catbird_client::{persona::unique, random_did};
use catbird_testkit::account::{Key, Spelling, document};
use catbird_testkit::app::{SERVICE_DID, TestApp};
use catbird_testkit::directory::{Answer, Directory};
use futures_util::FutureExt;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    every_reply_says_where_its_time_went;
    a_wait_counts_for_the_stage_that_waited;
    the_metrics_have_every_stage_after_a_write_and_a_read;
}

/// Stages of a write. It may also check its sender's membership, which is a query, and has a COMMIT stage unless the
/// batch committed in its only flush.
const WRITE: [&str; 8] = ["auth", "parse", "spend", "queue", "connection", "lock", "transaction", "encode"];
/// Stages of a read.
const READ: [&str; 6] = ["auth", "parse", "spend", "connection", "query", "encode"];

/// Parses the header into microseconds by stage. The stages add up to at most the total.
#[track_caller]
fn timing(headers: &HeaderMap) -> BTreeMap<String, u64> {
    let header = headers["server-timing"].to_str().unwrap();
    let mut stages = BTreeMap::new();
    for metric in header.split(", ") {
        let (name, milliseconds) = metric.split_once(";dur=").unwrap_or_else(|| panic!("{metric:?} in {header:?}"));
        let (whole, fraction) = milliseconds.split_once('.').unwrap();
        assert_eq!(fraction.len(), 3, "{header:?}");
        let micros = whole.parse::<u64>().unwrap() * 1_000 + fraction.parse::<u64>().unwrap();
        assert_eq!(stages.insert(name.to_owned(), micros), None, "{name} is there twice: {header:?}");
    }
    let sum: u64 = stages.iter().filter(|(name, _)| *name != "total").map(|(_, micros)| micros).sum();
    assert!(sum <= stages["total"], "{header:?}");
    stages
}

/// Returns the stages of a reply, which add up to at most the time that the client waited.
async fn stages(call: impl Future<Output = Reply>) -> (Reply, BTreeMap<String, u64>) {
    let start = Instant::now();
    let reply = call.await;
    let waited = start.elapsed();
    let mut stages = timing(&reply.headers);
    let total = Duration::from_micros(stages.remove("total").unwrap());
    assert!(!total.is_zero() && total <= waited, "the server says {total:?}, the client {waited:?}");
    (reply, stages)
}

fn names(stages: &BTreeMap<String, u64>) -> Vec<&str> {
    stages.keys().map(String::as_str).collect()
}

fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

#[track_caller]
fn assert_write(stages: &BTreeMap<String, u64>) {
    for stage in WRITE {
        assert!(stages.contains_key(stage), "no {stage} in {stages:?}");
    }
    assert!(
        stages.keys().all(|stage| WRITE.contains(&stage.as_str()) || ["query", "commit"].contains(&stage.as_str())),
        "{stages:?}"
    );
}

async fn every_reply_says_where_its_time_went(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    let here = [("convoId", id.as_str())];

    let (reply, written) = stages(ask(&members[0], "sendMessage", &message(&members[0], b"hello"))).await;
    ok(reply);
    assert_write(&written);
    let carol = app.persona();
    let added = offer(&mut members[0], &[&carol]).body;
    let (reply, written) = stages(ask(&members[0], "addMembers", &added)).await;
    ok(reply);
    assert_write(&written);
    // A transaction of its own, whose COMMIT is a separate stage.
    let alone = json!({ "convoId": id, "didList": [random_did()] });
    let (reply, written) = stages(ask(&members[0], "addMembers", &alone)).await;
    ok(reply);
    assert_write(&written);
    assert!(written.contains_key("commit"), "{written:?}");

    for method in ["getMessages", "getEpoch"] {
        let (reply, read) = stages(get(&members[1], method, &here)).await;
        ok(reply);
        assert_eq!(names(&read), sorted(READ), "{method}");
    }
    let (reply, read) = stages(get(&app.persona(), "getEpoch", &here)).await;
    refused(reply, 404, "ConvoNotFound");
    assert_eq!(names(&read), sorted(READ));

    // For an epoch that has passed. It reaches its transaction and is rolled back.
    let stale = with(&message(&members[1], b"late"), json!({ "epoch": 0 }));
    let (reply, lost) = stages(ask(&members[1], "sendMessage", &stale)).await;
    refused(reply, 409, "EpochMismatch");
    for stage in ["queue", "lock", "transaction", "encode"] {
        assert!(lost.contains_key(stage), "no {stage} in {lost:?}");
    }

    let xrpc = &members[1].xrpc;
    let getting = xrpc.send("blue.catbird.mls.getEpoch", xrpc.http.get(xrpc.url("blue.catbird.mls.getEpoch", &[])));
    let (reply, stranger) = stages(getting.map(Result::unwrap)).await;
    refused(reply, 401, "AuthenticationRequired");
    assert_eq!(names(&stranger), ["auth", "encode"]);
    let (reply, malformed) = stages(get(&members[1], "getEpoch", &[])).await;
    refused(reply, 400, "InvalidRequest");
    assert_eq!(names(&malformed), ["auth", "encode", "parse"]);
    let unknown = xrpc.http.get(xrpc.url("blue.catbird.mls.noSuchMethod", &[])).send().await.unwrap();
    assert_eq!(unknown.status().as_u16(), 501);
    assert_eq!(names(&timing(unknown.headers())), ["encode", "total"]);
}

async fn a_wait_counts_for_the_stage_that_waited(app: &TestApp) {
    /// Time for which another transaction holds the conversation's row. Times are measured here, so there is no
    /// condition to wait for.
    const HELD: Duration = Duration::from_millis(300);
    let members = app.conversation(2).await;
    let mut db = app.database.connect().await;
    let watcher = app.database.connect().await;
    let held = db.transaction().await.unwrap();
    held.execute("select from conversations where id = $1 for update", &[&convo(&members[0])]).await.unwrap();
    let (message_0, message_1) = (message(&members[0], b"first"), message(&members[1], b"second"));
    let first = stages(ask(&members[0], "sendMessage", &message_0));
    let rest = async {
        // The first request waits for the row longer than a batch of several conversations would, so it has a batch of
        // its own; new requests queue behind it.
        let blocked = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
                        and clock_timestamp() - query_start > interval '100 milliseconds'";
        while watcher.query(blocked, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = stages(ask(&members[1], "sendMessage", &message_1));
        let release = async {
            tokio::time::sleep(HELD).await;
            held.commit().await.unwrap();
        };
        tokio::join!(second, release).0
    };
    let ((first, at_row), (second, behind)) = tokio::join!(first, rest);
    assert_eq!((landed(&ok(first)).1 + 1), landed(&ok(second)).1);
    let held = HELD.as_micros() as u64;
    assert!(at_row["transaction"] >= held, "{at_row:?}");
    // It was queued for part of the time.
    assert!(behind["queue"] >= held / 4, "{behind:?}");
}

/// Counts how often each stage was recorded.
async fn recorded(app: &TestApp) -> BTreeMap<String, u64> {
    let page = reqwest::get(format!("{}/metrics", app.base)).await.unwrap().text().await.unwrap();
    let count = |line: &str| {
        let (stage, n) = line.strip_prefix("request_stage_duration_seconds_count{stage=\"")?.split_once("\"} ")?;
        Some((stage.to_owned(), n.parse().unwrap()))
    };
    page.lines().filter_map(count).collect()
}

async fn the_metrics_have_every_stage_after_a_write_and_a_read(app: &TestApp) {
    let members = app.conversation(1).await;
    let before = recorded(app).await;
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"hello")).await);
    let alone = json!({ "convoId": convo(&members[0]), "didList": [random_did()] });
    ok(ask(&members[0], "addMembers", &alone).await);
    ok(get(&members[0], "getMessages", &[("convoId", &convo(&members[0]))]).await);
    let after = recorded(app).await;
    let more = |stage: &str| after[stage] - before.get(stage).copied().unwrap_or(0);
    for stage in ["auth", "parse", "spend", "connection", "encode"] {
        assert_eq!(more(stage), 3, "{stage}: {before:?} {after:?}");
    }
    for stage in ["queue", "lock", "transaction"] {
        assert_eq!(more(stage), 2, "{stage}: {before:?} {after:?}");
    }
    assert_eq!(more("commit"), 1, "{before:?} {after:?}");
    assert!(more("query") >= 1, "{before:?} {after:?}");
    assert_eq!(after.len(), 10, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_tokens_are_real_no_reply_tells_its_times() {
    let directory = Directory::start();
    let (key, did) = (Key::secp256k1(1), random_did());
    let method = key.method(&format!("{did}#atproto"), Spelling::Multikey);
    directory.put(&format!("/{did}"), Answer::Document(document(&did, &[method])));
    let settings = [("JWT_SECRET", ""), ("PLC_DIRECTORY_URL", &directory.url()), ("ALLOW_PRIVATE_DID_HOSTS", "true")];
    let app = start(&settings).await;
    let xrpc = app.xrpc(&did);
    let nsid = nsid("getConvos");
    let now = app.app.clock.now().timestamp();
    let claims = json!({ "iss": did, "aud": SERVICE_DID, "iat": now, "exp": now + 60, "lxm": nsid, "jti": unique() });
    let token = key.token(&json!({ "alg": key.alg(), "typ": "JWT" }), &claims);
    for status in [200, 401] {
        let request = xrpc.http.get(xrpc.url(&nsid, &[])).bearer_auth(&token);
        let reply = xrpc.send(&nsid, request).await.unwrap();
        assert_eq!(reply.status, status, "{reply}");
        assert!(!reply.headers.contains_key("server-timing"), "{:?}", reply.headers);
    }
    let unknown = xrpc.http.get(xrpc.url("blue.catbird.mls.noSuchMethod", &[])).send().await.unwrap();
    assert!(!unknown.headers().contains_key("server-timing"), "{:?}", unknown.headers());
    let recorded = recorded(&app).await;
    assert_eq!(
        (recorded["auth"], recorded["encode"], recorded["query"]),
        (2, 3, 1),
        "the metrics have it all the same"
    );
    app.finish().await;
}
