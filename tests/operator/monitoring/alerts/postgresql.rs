//! Faults of PostgreSQL and of the work in its background.

use std::time::Duration;

use catbird_testkit::cluster::{OwnCluster, database};
use catbird_testkit::fleet::{Mode, Replica};

use super::case::Case;
use super::tools::{conversation, logged, pid, senders};

const PAUSE: Duration = Duration::from_millis(50);

pub async fn the_synchronous_standby_is_lost(case: &mut Case) {
    let cluster = OwnCluster::start().await;
    let client = cluster.connect().await;
    let replica = Replica::start(Mode::Advisory, &cluster.url(), &[]).await;
    let members = conversation(&replica.base, 2).await;
    case.watch(&[&replica.base], &cluster.url()).await;
    client.batch_execute("alter system set synchronous_standby_names = 'lost'").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let sending = senders(&members, 2, PAUSE);
    case.fires().await;
    case.follow().await.has("SyncRep").has("lost");
    case.says("empty it and reload");
    client.batch_execute("alter system set synchronous_standby_names = ''").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    case.resolves().await;
    sending.end().await;
}

/// Ten minutes of an open transaction are ten seconds here.
pub async fn an_operator_forgets_a_transaction(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    case.watch_with(&[&replica.base], &database.url, &[("> 600\n", "> 10\n")]).await;
    let pid = pid(&db).await;
    db.batch_execute("begin; create table forgotten (n int)").await.unwrap();
    case.fires().await;
    case.follow().await.has(&pid).has("idle in transaction");
    case.says("End a forgotten session");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
}

pub async fn other_clients_use_up_the_sessions(case: &mut Case) {
    let cluster = OwnCluster::start().await;
    let replica = Replica::start(Mode::Advisory, &cluster.url(), &[]).await;
    case.watch(&[&replica.base], &cluster.url()).await;
    let client = cluster.connect().await;
    let most: i64 = client.query_one("select current_setting('max_connections')::int8", &[]).await.unwrap().get(0);
    let mut config = cluster.config();
    config.application_name("forgotten-report");
    let mut others = Vec::new();
    for _ in 0..most * 86 / 100 {
        let (other, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        others.push(other);
    }
    case.fires().await;
    case.follow().await.has("forgotten-report");
    case.says("stop what else is connected");
    drop(others);
    case.resolves().await;
}

/// The cluster's next transaction id is set far ahead, as after a billion transactions, and an open transaction keeps VACUUM from one
/// table. Autovacuum freezes the others by itself.
pub async fn a_lock_keeps_vacuum_from_freezing(case: &mut Case) {
    /// First transaction id of a segment of pg_xact, which holds 2^20 of them.
    const NEXT: u32 = 0x480 << 20;
    let mut cluster = OwnCluster::start().await;
    cluster.stop().await;
    cluster.configure("autovacuum_naptime = 1\n");
    let pgdata = cluster.pgdata();
    let reset = format!("pg_resetwal --next-transaction-id={NEXT} --pgdata={}", pgdata.display());
    cluster.run_as_owner(&reset).await;
    cluster.run_as_owner(&format!("head -c 262144 /dev/zero > {}/pg_xact/0480", pgdata.display())).await;
    cluster.resume().await;
    let blocker = cluster.connect().await;
    let pid = pid(&blocker).await;
    blocker.batch_execute("begin; lock table devices in share update exclusive mode").await.unwrap();
    let replica = Replica::start(Mode::Advisory, &cluster.url(), &[]).await;
    case.watch(&[&replica.base], &cluster.url()).await;
    case.fires().await;
    case.follow().await.has("catbird").has("devices");
    case.turn_to("CatbirdTransactionOpen");
    case.follow().await.has(&pid).has("lock table devices");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
}

/// Seven hours of failing passes, of which the first seven are a change of dates.
pub async fn a_session_keeps_retention_from_its_passes(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("RETENTION_INTERVAL_SECONDS", "1")]).await;
    case.watch(&[&replica.base], &database.url).await;
    super::tools::until("the first pass", async || {
        let done = "select count(*) from sweeps where job = 'messages' and last_finished_at is not null";
        db.query_one(done, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    let long_ago = "update sweeps set since = now() - interval '7 hours', started_at = now() - interval '7 hours',
                           finished_at = now() - interval '7 hours', last_finished_at = now() - interval '7 hours'
                     where job = 'messages'";
    db.batch_execute(long_ago).await.unwrap();
    let pid = pid(&db).await;
    db.batch_execute("begin; select 1 from sweeps where job = 'messages' for update").await.unwrap();
    case.fires().await;
    case.follow().await.has("background_age_seconds{work=\"messages\"} 25").has("messages");
    case.says("The log says why a sweep failed (`a sweep failed`)");
    logged(&replica, "a sweep failed").await;
    case.turn_to("CatbirdTransactionOpen");
    case.follow().await.has(&pid).has("from sweeps");
    case.run_sql("select pg_terminate_backend(<pid>)", &[("<pid>", &pid)]).await.has(" t");
    case.resolves().await;
}

pub async fn a_constraint_forbids_a_deletion(case: &mut Case) {
    let database = database().await;
    let db = database.connect().await;
    db.batch_execute(
        "insert into event_stream (convo_id, event_type, payload, emitted_at)
         values ('old', 'left', '{}', now() - interval '8 days');
         create table copies (id bigint references event_stream (id));
         insert into copies select id from event_stream",
    )
    .await
    .unwrap();
    let replica = Replica::start(Mode::Advisory, &database.url, &[("RETENTION_INTERVAL_SECONDS", "1")]).await;
    case.watch(&[&replica.base], &database.url).await;
    case.fires().await;
    case.follow().await.has("events").has("copies_id_fkey");
    case.says("the table has the reason");
    db.batch_execute("drop table copies").await.unwrap();
    case.run_sql("update set_aside set retry_at = now()", &[]).await.has("UPDATE 1");
    case.resolves().await;
}
