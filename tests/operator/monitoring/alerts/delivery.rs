//! Faults of the delivery of events and envelopes.

use std::time::Duration;

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::receiver::{Answer, Receiver};
use catbird_testkit::redis::Redis;
use serde_json::json;

use super::case::Case;
use super::tools::{Clients, conversation, logged, pid, senders, until};

const PAUSE: Duration = Duration::from_millis(50);
const LOCAL: [(&str, &str); 3] =
    [("ALLOW_PRIVATE_MAILBOX_HOSTS", "true"), ("MAILBOX_RETRY_SECONDS", "1"), ("MAILBOX_TIMEOUT_SECONDS", "1")];

pub async fn a_session_locks_what_the_tail_reads(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let members = conversation(&replica.base, 2).await;
    let mut stream = members[1].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    stream.skip().await.unwrap();
    case.watch(&[&replica.base], &database.url).await;
    let pid = pid(&db).await;
    db.batch_execute("begin; lock table event_stream in access exclusive mode").await.unwrap();
    case.fires().await;
    case.follow().await.has("event_tail_age_seconds").has("\"events\":false");
    case.says("the log says `the event tail cannot read`");
    logged(&replica, "the event tail cannot read").await;
    case.turn_to("CatbirdTransactionOpen");
    case.follow().await.has(&pid).has("lock table event_stream");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
}

/// A stream may hold one event here, and a batch of messages is more.
pub async fn clients_read_slower_than_events_happen(case: &mut Case) {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("SSE_BUFFER_SIZE", "1")]).await;
    let members = conversation(&replica.base, 6).await;
    case.watch(&[&replica.base], &database.url).await;
    let followers: Vec<_> = members.iter().map(|member| member.xrpc.clone()).collect();
    let following = Clients::start(followers.len(), PAUSE, move |n| {
        let xrpc = followers[n].clone();
        async move {
            if let Ok(Ok(mut stream)) = xrpc.follow("streamConvoEvents", &[], None).await {
                while let Ok(Some(_)) = stream.next().await {}
            }
        }
    });
    let sending = senders(&members, 24, Duration::from_millis(200));
    case.fires().await;
    case.follow().await.has("event_streams_ended_total{reason=\"slowConsumer\"}");
    case.says("`slowConsumer`: clients do not read as fast as events happen");
    sending.end().await;
    case.resolves().await;
    following.end().await;
}

pub async fn redis_is_killed(case: &mut Case) {
    let database = database().await;
    let mut redis = Redis::start();
    let replica = Replica::start(Mode::Advisory, &database.url, &[("REDIS_URL", &redis.url())]).await;
    let members = conversation(&replica.base, 1).await;
    case.watch(&[&replica.base], &database.url).await;
    let sending = senders(&members, 1, PAUSE);
    redis.kill();
    case.fires().await;
    case.follow().await.has("redis_up 0").has("\"listening\":false");
    case.says("Repair Redis; the server reconnects by itself");
    redis.resume();
    case.resolves().await;
    sending.end().await;
}

/// The thresholds are durations of minutes, so they are divided like the others.
pub async fn a_session_keeps_envelopes_from_being_made(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let receiver = Receiver::start().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &LOCAL).await;
    let mut members = conversation(&replica.base, 2).await;
    verified(&members[1], &receiver).await;
    case.watch_with(&[&replica.base], &database.url, &[("> 120\n", "> 2\n")]).await;
    let pid = pid(&db).await;
    db.batch_execute("begin; lock table envelopes in share row exclusive mode").await.unwrap();
    members[0].send("an entry").await.unwrap();
    case.fires().await;
    case.follow().await.has("mailbox_fan_out_lag_seconds");
    case.says("The log says `entries cannot be expanded`");
    logged(&replica, "entries cannot be expanded").await;
    case.turn_to("CatbirdTransactionOpen");
    case.follow().await.has(&pid).has("lock table envelopes");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    receiver.have(1).await;
    case.resolves().await;
}

/// Sets a mailbox and waits until it is verified.
async fn verified(member: &catbird_client::persona::Persona, receiver: &Receiver) {
    assert_eq!(member.xrpc.procedure("setMailbox", &receiver.mailbox()).await.unwrap().status, 200);
    until("the verification", async || {
        member.xrpc.query("getMailbox", &[]).await.unwrap().body["state"] == json!("verified")
    })
    .await;
}

pub async fn mailboxes_refuse_until_the_last_attempt(case: &mut Case) {
    const ENTRIES: usize = 60;
    let database = database().await;
    let replica =
        Replica::start(Mode::Advisory, &database.url, &[&LOCAL[..], &[("MAILBOX_MAX_ATTEMPTS", "1")]].concat()).await;
    let mut members = conversation(&replica.base, 10).await;
    let mut receivers = Vec::new();
    for member in &members[1..] {
        let receiver = Receiver::start().await;
        verified(member, &receiver).await;
        receiver.answer(Answer::Status(500));
        receivers.push(receiver);
    }
    case.watch(&[&replica.base], &database.url).await;
    for n in 0..ENTRIES {
        members[0].send(&n.to_string()).await.unwrap();
    }
    case.fires().await;
    case.follow().await.has("1 attempts: the mailbox answered 500");
    for receiver in &receivers {
        receiver.answer(Answer::Status(204));
    }
    case.run("catbird-server envelopes --all", &[]).await.has("requeued");
    for receiver in &receivers {
        receiver.have(ENTRIES).await;
    }
    case.resolves().await;
}
