//! PgBouncer in transaction mode: each transaction may run on another connection, and no session state survives it.

use std::time::Duration;

use catbird_testkit::cluster::empty_database;
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::load::Load;
use catbird_testkit::pgbouncer::PgBouncer;
use tokio::time::Instant;

use super::tools::{count, recovered};

/// Fewer than two servers' pools, so that connections are really shared.
const CONNECTIONS: usize = 5;

/// Two servers start at once on an empty database and migrate it; a conversation and a race follow, all through the
/// pooler.
pub async fn everything_works_through_a_pooler_in_transaction_mode(mode: Mode) {
    let database = empty_database().await;
    let pooler = PgBouncer::start(&database.config, CONNECTIONS);
    let settings = [("DATABASE_POOLER", "true")];
    let fleet = Fleet::with(&[mode, mode], &database.config, &pooler.url(), &settings).await;
    let client = database.connect().await;

    let mut members = fleet.conversation(3).await;
    let sent = members[0].send("through the pooler").await.unwrap();
    assert_eq!(members[1].catch_up().await.unwrap(), ["through the pooler"]);
    let newcomer = fleet.persona(1).await;
    members[2].catch_up().await.unwrap();
    let landed = members[2].add(&[newcomer.did()]).await.unwrap();
    assert_eq!(landed.seq, sent.seq + 1);
    members[1].leave().await.unwrap();

    let mut load = Load::start(&fleet, 2).await;
    for _ in 0..5 {
        load.progress(20).await;
        const OURS: &str = "select count(*) from pg_stat_activity
            where datname = $1 and pid <> pg_backend_pid() and backend_type = 'client backend'";
        let backends = count(&client, OURS, database.config.get_dbname().unwrap()).await;
        assert!(
            0 < backends && backends as usize <= CONNECTIONS,
            "{backends} connections did not come from the pooler"
        );
    }
    load.stop().await.audit(&database.config).await;
    for replica in &fleet.replicas {
        recovered(replica, &members[0]).await;
    }
    fleet.check().await;

    // A restarted server finds the schema.
    let again = Fleet::with(&[mode], &database.config, &pooler.url(), &settings).await;
    recovered(&again.replicas[0], &members[0]).await;
}

/// The pooler keeps session settings to itself, so each read sets its own time limits.
pub async fn reads_end_in_time_behind_a_pooler(mode: Mode) {
    const WAITING: &str = "select count(*) from pg_stat_activity 
        where datname = $1 and wait_event_type = 'Lock' and clock_timestamp() - query_start > interval '6 seconds'";
    let database = empty_database().await;
    let pooler = PgBouncer::start(&database.config, CONNECTIONS);
    let settings = [("DATABASE_POOLER", "true")];
    let fleet = Fleet::with(&[mode], &database.config, &pooler.url(), &settings).await;
    let member = fleet.conversation(1).await.remove(0);
    let client = database.connect().await;
    client.batch_execute("begin; lock table conversations in access exclusive mode").await.unwrap();
    let start = Instant::now();
    let read = member.xrpc.query("getConvos", &[]).await.unwrap();
    assert_eq!((read.status, &read.body["error"]), (503, &"Overloaded".into()), "{read}");
    // PostgreSQL cancelled it (lock_timeout); this server would have waited for ten seconds.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    assert_eq!(count(&client, WAITING, database.config.get_dbname().unwrap()).await, 0);
    client.batch_execute("commit").await.unwrap();
    recovered(&fleet.replicas[0], &member).await;
}
