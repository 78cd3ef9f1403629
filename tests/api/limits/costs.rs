//! Cost of expensive requests, and the number of concurrent requests of one caller.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, bytes_value};
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::redis::Redis;
use futures_util::future::join_all;
use serde_json::json;

use crate::limits::{ask, metric, most, told_to_wait, until};

/// A page of 4 MiB costs about forty units each time that it is sent or read.
const LARGE: usize = 4 << 20;
/// Two seconds' worth is less than one such page, and enough to create a conversation.
const LIMITED: (&str, &str) = ("RATE_LIMIT_PER_DID", "15");

async fn send_large(sender: &Persona) -> Reply {
    let body = json!({
        "convoId": sender.convo().unwrap(),
        "ciphertext": bytes_value(&vec![7; LARGE]),
        "epoch": sender.epoch().unwrap(),
    });
    sender.xrpc.procedure("sendMessage", &body).await.unwrap()
}

/// Reads a page of the newest messages.
async fn page(reader: &Persona) -> Reply {
    let parameters = [("convoId", reader.convo().unwrap().to_owned()), ("peek", "true".to_owned())];
    reader.xrpc.query("getMessages", &parameters).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_dear_requests_use_a_limit_up_sooner_than_as_many_cheap_ones() {
    let app = TestApp::with(&[LIMITED]).await;
    let members = app.conversation(1).await;
    let alice = &members[0];
    until("the end of what making it has charged", async || ask(&alice.xrpc).await.status == 200).await;
    // They run at the sender's rate, a few at a time; those that wait too long are refused with a wait.
    let begun = Instant::now();
    let sent = join_all((0..6).map(|_| send_large(alice))).await;
    let accepted = sent.iter().filter(|reply| reply.status == 200).count();
    assert!(accepted > 0 && accepted as f64 * 40.0 < most(15, begun), "{accepted} of 6 in {:?}", begun.elapsed());
    // On a slow machine PostgreSQL may not confirm so many bytes in time.
    let unconfirmed = |reply: &Reply| reply.error() == Some("MessageUnconfirmed");
    for refused in sent.iter().filter(|reply| reply.status != 200 && !unconfirmed(reply)) {
        told_to_wait(refused);
    }

    // A reply is charged once its size is known. A few run at once, and the others are refused when they get a slot.
    let read = join_all((0..10).map(|_| page(alice))).await;
    let refused: Vec<&Reply> = read.iter().filter(|reply| reply.status == 429).collect();
    assert!(!refused.is_empty() && refused.len() < 10, "{} of 10 were refused", refused.len());
    for reply in refused {
        told_to_wait(reply);
    }
    let wait = told_to_wait(&ask(&alice.xrpc).await);
    assert!(wait <= Duration::from_millis(10_000 + 1_000 / 15 + 1), "{wait:?}");

    let bob = app.persona();
    let cheap = join_all((0..20).map(|_| ask(&bob.xrpc))).await;
    assert!(cheap.iter().all(|reply| reply.status == 200), "as many that cost little are let through");
    assert!(metric(&app.base, "request_cost_units_total{for=\"bytes\"}").await >= Some(80.0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_few_requests_of_one_caller_are_worked_on_at_once_and_the_others_wait() {
    let app = TestApp::with(&[("RATE_LIMIT_PER_DID", "10000")]).await;
    let members = app.conversation(2).await;
    // The observer is not in a transaction, in which it would always see the same.
    let (database, looking) = (app.database.connect().await, app.database.connect().await);
    database.batch_execute("begin; lock table messages in access exclusive mode").await.unwrap();
    let held = async {
        let busy = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock' and query like '%messages/list_before%'";
        let count = async || looking.query_one(busy, &[]).await.unwrap().get::<_, i64>(0);
        let at_once = catbird_server::limits::max_concurrent() as i64;
        until("reads that wait for the table", async || count().await == at_once).await;
        // Other callers are answered meanwhile.
        let epoch = [("convoId", members[1].convo().unwrap().to_owned())];
        assert_eq!(members[1].xrpc.query("getEpoch", &epoch).await.unwrap().status, 200);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            assert_eq!(count().await, at_once);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        database.batch_execute("rollback").await.unwrap();
    };
    let (read, ()) = futures_util::join!(join_all((0..20).map(|_| page(&members[0]))), held);
    for reply in read {
        assert_eq!(reply.status, 200, "{reply}");
    }
    drop((database, looking));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_client_that_disconnects_is_charged_for_its_running_request() {
    let app = TestApp::with(&[LIMITED]).await;
    let alice = app.persona();
    let database = app.database.connect().await;
    database.batch_execute("begin; lock table conversations in access exclusive mode").await.unwrap();
    let made = json!({ "groupId": "ab12", "cipherSuite": alice.mls.suite_name() });
    let making = alice.xrpc.procedure("createConvo", &made);
    assert!(tokio::time::timeout(Duration::from_millis(500), making).await.is_err(), "it waits for the table");
    database.batch_execute("rollback").await.unwrap();
    until("the charge", async || metric(&app.base, "request_cost_units_total{for=\"database\"}").await > Some(60.0))
        .await;
    told_to_wait(&ask(&alice.xrpc).await);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_replicas_share_the_cost_of_requests() {
    let redis = Redis::start();
    let database = database().await;
    let url = redis.url();
    let settings = [LIMITED, ("REDIS_URL", url.as_str())];
    let fleet = Fleet::with(&[Mode::Advisory, Mode::Actors], &database.config, &database.url, &settings).await;
    let members = fleet.conversation(1).await;
    let elsewhere = members[0].xrpc.at(fleet.replicas[1].base.parse().unwrap());
    until("room for another request", async || ask(&members[0].xrpc).await.status == 200).await;
    let sent = send_large(&members[0]).await;
    assert_eq!(sent.status, 200, "{sent}");
    assert_eq!(page(&members[0]).await.status, 200);
    until("a charge at the other replica as no single request costs it", async || {
        let reply = ask(&elsewhere).await;
        reply.status == 429 && told_to_wait(&reply) > Duration::from_millis(500)
    })
    .await;
    fleet.check().await;
}
