//! Several replicas, one pass: one replica makes it, and if it dies the others continue.

use std::time::{Duration, Instant};

use catbird_server::config::Retention;
use catbird_server::jobs::SweepOutcome;
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use tokio_postgres::Client;

use crate::retention::{KEPT, column, pass};

const PATIENCE: Duration = Duration::from_secs(60);

async fn old_nonces(db: &Client, rows: i32) {
    db.execute(
        "insert into auth_nonces (issuer_did, jti, expires_at)
         select 'did:plc:somebody', n::text, now() - interval '1 day' from generate_series(1, $1::int) n",
        &[&rows],
    )
    .await
    .unwrap();
    db.batch_execute("insert into auth_nonces values ('did:plc:somebody', 'young', now() + interval '1 day')")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_that_begin_at_once_one_makes_the_pass() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    old_nonces(&db, 5_000).await;
    let hourly = Retention { sweep_interval: Duration::from_secs(3_600), ..KEPT };
    let store = &app.app.store;
    let passes =
        tokio::join!(pass(store, hourly, "nonces"), pass(store, hourly, "nonces"), pass(store, hourly, "nonces"));
    let mut passes = [passes.0, passes.1, passes.2];
    passes.sort_by_key(|pass| matches!(pass, SweepOutcome::NotNow));
    assert_eq!(passes, [SweepOutcome::Made(5_000), SweepOutcome::NotNow, SweepOutcome::NotNow]);
    assert_eq!(pass(store, hourly, "nonces").await, SweepOutcome::NotNow, "it was made a short while ago");
    let note = "select deleted from sweeps where job = 'nonces' and finished_at >= started_at";
    assert_eq!(column::<i64>(&db, note).await, [5_000]);
    // An hour later, according to the table.
    db.batch_execute("update sweeps set started_at = now() - interval '61 minutes'").await.unwrap();
    assert_eq!(pass(store, hourly, "nonces").await, SweepOutcome::Made(0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_another_replica_is_at_it() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    old_nonces(&db, 10).await;
    db.batch_execute("begin; select pg_advisory_xact_lock(hashtextextended('nonces', 3))").await.unwrap();
    assert_eq!(pass(&app.app.store, KEPT, "nonces").await, SweepOutcome::NotNow);
    db.batch_execute("rollback").await.unwrap();
    assert_eq!(column::<i64>(&db, "select count(*) from auth_nonces").await, [11]);
    assert_eq!(pass(&app.app.store, KEPT, "nonces").await, SweepOutcome::Made(10));
    app.finish().await;
}

/// Counts the stored old tokens.
async fn left(db: &Client) -> i64 {
    column(db, "select count(*) from auth_nonces where expires_at < now() - interval '1 hour'").await[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_in_the_middle_leaves_the_rest_to_another() {
    let database = database().await;
    let db = database.connect().await;
    const OLD: i32 = 400_000;
    old_nonces(&db, OLD).await;
    let often = [("RETENTION_INTERVAL_SECONDS", "1")];
    let mut replica = Replica::start(Mode::Advisory, &database.url, &often).await;
    let start = Instant::now();
    while left(&db).await == i64::from(OLD) {
        assert!(start.elapsed() < PATIENCE, "the sweep does not begin");
    }
    replica.kill();
    let rest = left(&db).await;
    assert!(rest > 0, "it was over before the kill");
    assert_eq!(column::<bool>(&db, "select finished_at is null from sweeps where job = 'nonces'").await, [true]);

    let other = Replica::start(Mode::Actors, &database.url, &often).await;
    while left(&db).await > 0 {
        assert!(start.elapsed() < PATIENCE, "no replica takes over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(column::<i64>(&db, "select count(*) from auth_nonces where jti = 'young'").await, [1]);
    assert_eq!(other.terminate().await, Some(0), "and it stops when told to");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_stops_at_once_when_the_server_drains() {
    let database = database().await;
    let db = database.connect().await;
    old_nonces(&db, 400_000).await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("RETENTION_INTERVAL_SECONDS", "1")]).await;
    let start = Instant::now();
    while left(&db).await == 400_000 {
        assert!(start.elapsed() < PATIENCE, "the sweep does not begin");
    }
    assert_eq!(replica.terminate().await, Some(0));
    assert!(left(&db).await > 0, "it was over before the end");
}
