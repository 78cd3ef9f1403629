//! SIGKILL: a replica cannot finish anything, and the others continue.

use catbird_client::persona::unique;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::load::Load;
use serde_json::json;
use tokio::time::Instant;

use super::tools::{DEADLINE, entries, lock_waiters, message, recovered};

/// The replica is killed after it moved the position and appended the entry, before its COMMIT: the test holds the row
/// that it writes last. Slow: PostgreSQL notices the closed connection when the wait for that row times out.
pub async fn a_replica_killed_inside_a_transaction_leaves_nothing_behind(mode: Mode) {
    let database = database().await;
    let mut fleet = Fleet::start(&[mode, mode], &database.config, &database.url).await;
    let members = fleet.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    let (mut blocker, watcher) = (database.connect().await, database.connect().await);
    let mut body = message(&members[0], "half done");
    let key = unique();
    body["idempotencyKey"] = json!(key);

    let taken = blocker.transaction().await.unwrap();
    taken
        .execute(
            "insert into idempotency_records (caller_did, method, key, fingerprint, reply)
             values ($1, 'sendMessage', $2, '', '{}')",
            &[&members[0].did(), &key],
        )
        .await
        .unwrap();
    let doomed = members[0].xrpc.clone();
    let asking = tokio::spawn({
        let body = body.clone();
        async move { doomed.procedure("sendMessage", &body).await }
    });
    lock_waiters(&watcher, 1).await;
    fleet.replicas[0].kill();
    assert!(asking.await.unwrap().is_err(), "the replica is dead");

    let start = Instant::now();
    let survivor = &members[1].xrpc;
    let mut reply = survivor.procedure("sendMessage", &message(&members[1], "goes on")).await.unwrap();
    while reply.status == 503 {
        assert!(start.elapsed() < DEADLINE, "the dead replica holds the conversation for ever: {reply}");
        reply = survivor.procedure("sendMessage", &message(&members[1], "goes on")).await.unwrap();
    }
    assert_eq!(
        (reply.status, reply.number("seq").unwrap()),
        (200, members[1].last_seq + 1),
        "nothing half done: {reply}"
    );

    taken.rollback().await.unwrap();
    let reply = members[0].xrpc.at(survivor.base.clone()).procedure("sendMessage", &body).await.unwrap();
    assert_eq!((reply.status, reply.number("seq").unwrap()), (200, members[1].last_seq + 2), "{reply}");
    assert_eq!(entries(&watcher, &convo).await as u64, members[1].last_seq + 2);
    recovered(&fleet.replicas[1], &members[1]).await;
    fleet.check().await;
}

pub async fn replicas_killed_under_load_lose_nothing(mode: Mode) {
    let database = database().await;
    let mut fleet = Fleet::start(&[mode, mode], &database.config, &database.url).await;
    let mut load = Load::start(&fleet, 2).await;
    for round in 0..6 {
        load.progress(15).await;
        let before = load.unanswered();
        fleet.replicas[round % 2].kill();
        load.progress(10).await;
        assert!(load.unanswered() > before, "no client noticed that a replica was killed");
        fleet.replicas[round % 2] = Replica::start(mode, &database.url, &[]).await;
        load.servers(&fleet);
    }
    load.progress(15).await;
    let plain = fleet.persona(0).await;
    load.stop().await.audit(&database.config).await;
    for replica in &fleet.replicas {
        recovered(replica, &plain).await;
    }
    fleet.check().await;
}
