//! Restarts of PostgreSQL.

use catbird_client::persona::unique;
use catbird_client::random_did;
use catbird_testkit::chaos::{Chaos, Counts, Fault};
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::load::Load;
use futures_util::future::join_all;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::tools::{ADD, count, eventually, message, recovered};

/// Kind of restart.
#[derive(Clone, Copy, PartialEq)]
enum Restart {
    InOrder,
    Crash,
}

pub async fn restarts_of_postgres_lose_nothing(mode: Mode) {
    under_load(mode, Restart::InOrder, 4).await;
}

pub async fn crashes_of_postgres_lose_nothing(mode: Mode) {
    under_load(mode, Restart::Crash, 6).await;
}

async fn under_load(mode: Mode, restart: Restart, times: usize) {
    let mut cluster = OwnCluster::start().await;
    let fleet = Fleet::start(&[mode, mode], &cluster.config(), &cluster.url()).await;
    let mut load = Load::start(&fleet, 2).await;
    for _ in 0..times {
        load.progress(20).await;
        let before = load.unanswered();
        match restart {
            Restart::InOrder => cluster.stop().await,
            Restart::Crash => cluster.crash().await,
        }
        eventually("a client noticed that PostgreSQL is away", async || load.unanswered() > before).await;
        cluster.resume().await;
    }
    load.progress(20).await;
    let plain = fleet.persona(0).await;
    load.stop().await.audit(&cluster.config()).await;
    for replica in &fleet.replicas {
        recovered(replica, &plain).await;
    }
    fleet.check().await;
}

/// All pooled connections are dead after a restart, and no request fails because of that.
pub async fn connections_from_before_a_restart_cost_no_request(mode: Mode) {
    const POOL: &str = "select count(*) from pg_stat_activity where application_name = $1";
    let mut cluster = OwnCluster::start().await;
    let fleet = Fleet::start(&[mode], &cluster.config(), &cluster.url()).await;
    let conversations = join_all((0..20).map(|_| fleet.conversation(1))).await;
    let everybody_sends = async || {
        let asking = conversations.iter().map(async |members| {
            let sent = members[0].xrpc.procedure("sendMessage", &message(&members[0], "hello")).await.unwrap();
            let read = members[0].xrpc.query("getConvos", &[]).await.unwrap();
            assert_eq!((sent.status, read.status), (200, 200), "{sent} {read}");
        });
        join_all(asking).await;
    };
    everybody_sends().await;
    let old = count(&connect(&cluster).await, POOL, "catbird-server").await;
    assert!(old >= 5, "the pool had only {old} connections to lose");
    cluster.stop().await;
    cluster.resume().await;
    everybody_sends().await;
    recovered(&fleet.replicas[0], &conversations[0][0]).await;
    fleet.check().await;
}

/// PostgreSQL does not flush each transaction id, so after a crash it assigns the last ones again. Asked about an id
/// from before the crash, it reports on another transaction, possibly as committed.
pub async fn a_transaction_id_that_is_used_again_after_a_crash_is_no_success(mode: Mode) {
    let mut cluster = OwnCluster::start().await;
    // Unflushed write-ahead log stays in memory for ten seconds instead of a fifth of one, so that the crash loses it.
    connect(&cluster).await.batch_execute("alter system set wal_writer_delay = '10s'").await.unwrap();
    cluster.stop().await;
    cluster.resume().await;
    let chaos = Chaos::before(&cluster.config()).await;
    let fleet = Fleet::start(&[mode], &cluster.config(), &chaos.url()).await;
    let members = fleet.conversation(1).await;
    let convo = members[0].convo().unwrap();
    let mut given_again = false;
    let on_roster = "select count(*) - 1 from members where convo_id = $1";
    for round in 1..=5 {
        let body = json!({ "convoId": convo, "didList": [random_did()], "idempotencyKey": unique() });
        chaos.on_commit(ADD, Fault::Hold);
        let asking = async { members[0].xrpc.procedure("addMembers", &body).await.unwrap() };
        let (mut reply, lost) = tokio::join!(asking, crash_holding_a_commit(&mut cluster, &chaos, round));
        let client = connect(&cluster).await;
        if reply.status == 200 {
            assert_eq!(count(&client, on_roster, convo).await, round, "acknowledged, and lost: {reply}");
        }
        while reply.status == 503 {
            reply = members[0].xrpc.procedure("addMembers", &body).await.unwrap();
        }
        assert_eq!((reply.status, count(&client, on_roster, convo).await), (200, round), "{reply}");
        given_again |= lost;
        // PostgreSQL may have flushed the id by chance, because it filled a page of its log.
        if given_again {
            break;
        }
    }
    assert!(given_again, "no crash lost a transaction id");
    recovered(&fleet.replicas[0], &members[0]).await;
    fleet.check().await;
}

/// Crashes PostgreSQL while the `nth` COMMIT is held, and consumes transaction ids until that transaction's id repeats.
/// Returns whether it did.
async fn crash_holding_a_commit(cluster: &mut OwnCluster, chaos: &Chaos, nth: i64) -> bool {
    let client = connect(cluster).await;
    eventually("a COMMIT is held", async || Counts::get(&chaos.counts().held) as i64 == nth).await;
    let lost = "select max(backend_xid::text::bigint) from pg_stat_activity where application_name = $1";
    let lost = count(&client, lost, "catbird-server").await;
    // The server must not ask before the id has been assigned again.
    chaos.black_hole(true);
    cluster.restart_immediate().await;
    let client = connect(cluster).await;
    let mut given = 0;
    while given < lost {
        given = count(&client, "select pg_current_xact_id()::text::bigint where $1 <> ''", "again").await;
    }
    chaos.black_hole(false);
    given == lost
}

async fn connect(cluster: &OwnCluster) -> Client {
    let (client, connection) = cluster.config().connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
