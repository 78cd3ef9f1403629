//! Transports of notifications, and delivery without them.

use catbird_client::persona::Persona;
use catbird_client::xrpc::bytes_value;
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::redis::Redis;
use serde_json::json;

use super::checker::Checker;
use super::*;

const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];

async fn send(sender: &Persona) -> u64 {
    let body = json!({
        "convoId": sender.convo().unwrap(),
        "ciphertext": bytes_value(b"opaque"),
        "epoch": sender.epoch().unwrap(),
    });
    let reply = sender.xrpc.procedure("sendMessage", &body).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply.number("seq").unwrap()
}

/// A conversation of two at two replicas: the sender at the first, the other's stream at the second.
struct Pair {
    fleet: Fleet,
    sender: Persona,
    checker: Checker,
    convo: String,
    _database: TestDatabase,
}

impl Pair {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let database = database().await;
        let fleet = Fleet::with(&MODES, &database.config, &database.url, settings).await;
        let mut members = fleet.conversation(2).await;
        let (_, servers) = watch(&fleet, 1);
        let checker = Checker::start(&members[1].xrpc, servers);
        checker.until("the stream", |seen| seen.live).await;
        let (sender, convo) = (members.remove(0), members[0].convo().unwrap().to_owned());
        Self { fleet, sender, checker, convo, _database: database }
    }

    /// Sends messages one after the other, and returns the time of each from its reply to the event; sorted.
    async fn times(&self, n: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..n {
            let seq = send(&self.sender).await;
            let sent = Instant::now();
            self.checker.until("an event", |seen| seen.has(&self.convo, seq)).await;
            times.push(sent.elapsed());
        }
        times.sort();
        times
    }

    async fn until_both_listen(&self, by: &str) {
        for replica in &self.fleet.replicas {
            until("the listening", async || hints_of(&replica.base).await == (by.to_owned(), true)).await;
        }
    }
}

/// Servers for a checker: only the `n`-th.
fn watch(
    fleet: &Fleet,
    n: usize,
) -> (tokio::sync::watch::Sender<Vec<String>>, tokio::sync::watch::Receiver<Vec<String>>) {
    tokio::sync::watch::channel(vec![fleet.replicas[n].base.clone()])
}

/// Well below the poll interval, so the event came by notification. The fastest one counts, since the machine is
/// shared.
#[track_caller]
fn were_told(times: &[Duration]) {
    println!("median {:?}, fastest {:?}, slowest {:?}", times[times.len() / 2], times[0], times[times.len() - 1]);
    assert!(times[times.len() / 4] < catbird_server::events::POLL_INTERVAL / 4, "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_redis_carries_hints_between_replicas() {
    let redis = Redis::start();
    let pair = Pair::start(&[("REDIS_URL", &redis.url())]).await;
    pair.until_both_listen("redis").await;
    were_told(&pair.times(20).await);
    assert!(
        metric(&pair.fleet.replicas[0].base, "event_hints_total{transport=\"redis\",outcome=\"sent\"}").await
            > Some(0.0)
    );
    pair.fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_without_redis_postgres_carries_them() {
    let pair = Pair::start(&[]).await;
    pair.until_both_listen("notify").await;
    were_told(&pair.times(20).await);
    assert!(
        metric(&pair.fleet.replicas[0].base, "event_hints_total{transport=\"notify\",outcome=\"sent\"}").await
            > Some(0.0)
    );
    pair.fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_without_any_hints_the_poll_brings_everything() {
    let pair = Pair::start(&[("DATABASE_POOLER", "true")]).await;
    assert_eq!(hints_of(&pair.fleet.replicas[1].base).await, ("poll".to_owned(), false));
    let first = send(&pair.sender).await;
    let mut last = first;
    for _ in 0..20 {
        last = send(&pair.sender).await;
    }
    pair.checker.until("everything", |seen| seen.has(&pair.convo, last)).await;
    pair.checker.seen().is_exactly(&pair.convo, first..=last);
    pair.fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_redis_may_die_and_come_back_and_freeze_and_nothing_is_lost() {
    let mut redis = Redis::start();
    let pair = Pair::start(&[("REDIS_URL", &redis.url())]).await;
    pair.until_both_listen("redis").await;
    let first = send(&pair.sender).await;
    redis.kill();
    for replica in &pair.fleet.replicas {
        until("the notice that Redis is gone", async || !hints_of(&replica.base).await.1).await;
    }
    let mut last = first;
    for _ in 0..20 {
        last = send(&pair.sender).await;
    }
    pair.checker.until("what came without Redis", |seen| seen.has(&pair.convo, last)).await;
    assert!(
        metric(&pair.fleet.replicas[0].base, "event_hints_total{transport=\"redis\",outcome=\"lost\"}").await
            > Some(0.0)
    );
    redis.resume();
    pair.until_both_listen("redis").await;
    were_told(&pair.times(20).await);
    redis.freeze();
    for _ in 0..20 {
        last = send(&pair.sender).await;
    }
    pair.checker.until("what came while Redis hung", |seen| seen.has(&pair.convo, last)).await;
    let seen = pair.checker.seen();
    seen.is_exactly(&pair.convo, first..=last);
    assert_eq!(seen.connections, 1, "no stream was cut for it");
    pair.fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typing_reaches_other_replicas_through_redis() {
    let redis = Redis::start();
    let pair = Pair::start(&[("REDIS_URL", &redis.url())]).await;
    pair.until_both_listen("redis").await;
    pair.times(1).await;
    let typing = json!({ "convoId": pair.convo, "isTyping": true });
    assert_eq!(pair.sender.xrpc.procedure("sendTypingIndicator", &typing).await.unwrap().status, 200);
    let told = |seen: &super::checker::Seen| {
        seen.others.iter().any(|(name, event)| name == "typingEvent" && event["isTyping"] == true)
    };
    pair.checker.until("the typing", told).await;
}
