//! Replicas that die, drain and return, and connections to PostgreSQL that break, with clients that follow.

use catbird_client::xrpc::bytes_value;
use catbird_testkit::chaos::Chaos;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::redis::Redis;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::sync::watch;

use super::checker::Checker;
use super::*;

const MODES: [Mode; 3] = [Mode::Advisory, Mode::Actors, Mode::Advisory];

/// Returns the addresses for checkers.
fn bases(fleet: &Fleet) -> Vec<String> {
    fleet.replicas.iter().map(|replica| replica.base.clone()).collect()
}

/// Sends until it is stopped, at any server that answers; returns the seqs.
fn sender(
    who: catbird_client::xrpc::Xrpc,
    convo: String,
    epoch: u64,
    servers: watch::Receiver<Vec<String>>,
    mut stop: watch::Receiver<bool>,
) -> tokio::task::JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut seqs = Vec::new();
        let mut turn = 0;
        while !*stop.borrow_and_update() {
            let server = {
                let servers = servers.borrow();
                servers[turn % servers.len()].parse().unwrap()
            };
            turn += 1;
            let body = json!({ "convoId": convo, "ciphertext": bytes_value(b"opaque"), "epoch": epoch });
            match who.at(server).procedure("sendMessage", &body).await {
                Ok(reply) if reply.status == 200 => seqs.push(reply.number("seq").unwrap()),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        seqs
    })
}

async fn newest(database: &tokio_postgres::Client, convo: &str) -> u64 {
    let row = database.query_one("select last_seq from conversations where id = $1", &[&convo]).await.unwrap();
    row.get::<_, i64>(0).cast_unsigned()
}

/// Runs three replicas, of which one is killed and replaced repeatedly while members send and follow at different ones.
async fn replicas_die(settings: &[(&str, &str)]) {
    let database = database().await;
    let db = database.connect().await;
    let mut fleet = Fleet::with(&MODES, &database.config, &database.url, settings).await;
    let members = fleet.conversation(6).await;
    let convo = members[0].convo().unwrap().to_owned();
    let epoch = members[0].epoch().unwrap();
    let (change, servers) = watch::channel(bases(&fleet));
    let checkers: Vec<Checker> = members.iter().map(|member| Checker::start(&member.xrpc, servers.clone())).collect();
    for checker in &checkers {
        checker.until("the stream", |seen| seen.live).await;
    }
    let begin = newest(&db, &convo).await + 1;
    let (tell, stop) = watch::channel(false);
    let senders: Vec<_> = members[..3]
        .iter()
        .map(|member| sender(member.xrpc.clone(), convo.clone(), epoch, servers.clone(), stop.clone()))
        .collect();
    for round in 0..6 {
        let before = newest(&db, &convo).await;
        until("some traffic", async || newest(&db, &convo).await >= before + 30).await;
        let which = round % fleet.replicas.len();
        let replacement = Replica::start(MODES[which], &database.url, settings).await;
        let mut old = std::mem::replace(&mut fleet.replicas[which], replacement);
        change.send_replace(bases(&fleet));
        match round % 2 {
            0 => old.kill(),
            _ => assert_eq!(old.terminate().await, Some(0)),
        }
    }
    tell.send_replace(true);
    let mut given = Vec::new();
    for sender in senders {
        given.extend(sender.await.unwrap());
    }
    let end = newest(&db, &convo).await;
    let mut connections = 0;
    for checker in &checkers {
        checker.until("the last entry", |seen| seen.has(&convo, end)).await;
        let seen = checker.seen();
        seen.is_exactly(&convo, begin..=end);
        assert!(given.iter().all(|seq| seen.has(&convo, *seq)), "an accepted message was not delivered");
        connections += seen.connections;
    }
    assert!(connections > checkers.len() as u64, "no stream was cut");
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_replicas_die_and_no_event_is_missed() {
    replicas_die(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_replicas_die_with_redis_and_no_event_is_missed() {
    let redis = Redis::start();
    replicas_die(&[("REDIS_URL", &redis.url())]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_connections_to_postgres_break_and_no_event_is_missed() {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let db = database.connect().await;
    let fleet = Fleet::start(&[Mode::Advisory], &database.config, &chaos.url()).await;
    let members = fleet.conversation(3).await;
    let convo = members[0].convo().unwrap().to_owned();
    let (_change, servers) = watch::channel(bases(&fleet));
    let checkers: Vec<Checker> = members.iter().map(|member| Checker::start(&member.xrpc, servers.clone())).collect();
    for checker in &checkers {
        checker.until("the stream", |seen| seen.live).await;
    }
    let begin = newest(&db, &convo).await + 1;
    let (tell, stop) = watch::channel(false);
    let sending = sender(members[0].xrpc.clone(), convo.clone(), members[0].epoch().unwrap(), servers, stop);
    for _ in 0..10 {
        let before = newest(&db, &convo).await;
        until("some traffic", async || newest(&db, &convo).await >= before + 10).await;
        chaos.cut_all();
    }
    tell.send_replace(true);
    sending.await.unwrap();
    let end = newest(&db, &convo).await;
    for checker in &checkers {
        checker.until("the last entry", |seen| seen.has(&convo, end)).await;
        let seen = checker.seen();
        seen.is_exactly(&convo, begin..=end);
        assert_eq!(seen.connections, 1, "no stream was cut for it");
    }
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_cursor_of_one_replica_leads_on_at_another() {
    let database = database().await;
    let mut fleet = Fleet::start(&[Mode::Advisory, Mode::Actors], &database.config, &database.url).await;
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let (change, servers) = watch::channel(vec![fleet.replicas[0].base.clone()]);
    let checker = Checker::start(&members[1].xrpc, servers.clone());
    checker.until("the stream", |seen| seen.live).await;
    let db = database.connect().await;
    let begin = newest(&db, &convo).await + 1;
    let (tell, stop) = watch::channel(false);
    let (_all, at_second) = watch::channel(vec![fleet.replicas[1].base.clone()]);
    let sending = sender(members[0].xrpc.clone(), convo.clone(), members[0].epoch().unwrap(), at_second, stop);
    checker.until("some entries", |seen| seen.has(&convo, begin + 10)).await;
    change.send_replace(vec![fleet.replicas[1].base.clone()]);
    fleet.replicas[0].kill();
    until("more entries", async || newest(&db, &convo).await >= begin + 50).await;
    tell.send_replace(true);
    sending.await.unwrap();
    let end = newest(&db, &convo).await;
    checker.until("the last entry", |seen| seen.has(&convo, end)).await;
    checker.seen().is_exactly(&convo, begin..=end);
    assert_eq!(checker.seen().connections, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_tells_load_balancers_that_it_is_not_ready_and_then_ends_the_streams() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("DRAIN_DELAY_SECONDS", "2")]).await;
    let who = catbird_testkit::app::validated(&replica.base, &catbird_client::random_did());
    let mut stream = who.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    stream.skip().await.unwrap();
    let ready = format!("{}/health/ready", replica.base);
    replica.signal(Signal::SIGTERM);
    // Still there to report that it is not ready, and to serve requests that reach it, streams included.
    let http = catbird_client::xrpc::http().unwrap();
    until("the end of readiness", async || http.get(&ready).send().await.unwrap().status() == 503).await;
    assert_eq!(who.query("getConvos", &[]).await.unwrap().status, 200);
    let mut late = who.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    late.skip().await.unwrap();
    for stream in [&mut stream, &mut late] {
        let told = stream.next().await.unwrap().expect("it is told before it is cut off");
        assert_eq!((&*told.name, &told.data["info"]), ("infoEvent", &json!("draining")));
        assert!(stream.retry_ms.is_some());
        assert!(stream.next().await.unwrap().is_none(), "the stream ends in good order");
    }
    assert_eq!(replica.terminate().await, Some(0));
}
