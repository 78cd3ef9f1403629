//! P4, P10: a read-only server, and COMMITs that wait for a standby.

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc;
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use futures_util::future::{join, join_all};
use serde_json::Value;
use tokio::time::Instant;

use super::tools::{count, eventually, message, metric, recovered};

/// Returns the reply of `/health/ready`.
async fn readiness(replica: &Replica) -> (u16, Value) {
    let page = xrpc::http().unwrap().get(format!("{}/health/ready", replica.base)).send().await.unwrap();
    (page.status().as_u16(), page.json().await.unwrap())
}

/// No error is reported as the server's fault, and load balancers send it no requests.
async fn refuses_for_now(replica: &Replica, member: &Persona) {
    eventually("the server is not ready", async || readiness(replica).await.0 == 503).await;
    let (_, page) = readiness(replica).await;
    assert_eq!((&page["checks"]["database"], &page["checks"]["writes"]), (&true.into(), &false.into()), "{page}");
    let sent = member.xrpc.procedure("sendMessage", &message(member, "to a standby")).await.unwrap();
    let read = member.xrpc.query("getConvos", &[]).await.unwrap();
    for reply in [sent, read] {
        assert_eq!((reply.status, &reply.body["error"]), (503, &"DatabaseUnavailable".into()), "{reply}");
        assert!(reply.headers.contains_key("retry-after"), "{reply}");
    }
}

/// After a failover the address may lead to a server in recovery that is promoted a moment later.
pub async fn a_standby_is_not_ready_until_it_is_promoted(mode: Mode) {
    let mut cluster = OwnCluster::start().await;
    let fleet = Fleet::start(&[mode], &cluster.config(), &cluster.url()).await;
    let (replica, member) = (&fleet.replicas[0], fleet.conversation(1).await.remove(0));
    cluster.stop().await;
    cluster.stand_by();
    cluster.resume().await;
    refuses_for_now(replica, &member).await;
    let client = cluster.connect().await;
    assert!(client.query_one("select pg_promote()", &[]).await.unwrap().get::<_, bool>(0));
    eventually("the promoted server is ready", async || readiness(replica).await.0 == 200).await;
    recovered(replica, &member).await;
    fleet.check().await;
    let defects: Vec<_> = replica.log().into_iter().filter(|line| line.contains("SQLSTATE")).collect();
    assert!(defects.is_empty(), "{defects:?}");
}

/// A primary that is being replaced becomes read-only while its connections stay open.
pub async fn a_primary_that_is_set_to_read_only_is_left(mode: Mode) {
    let cluster = OwnCluster::start().await;
    let fleet = Fleet::start(&[mode], &cluster.config(), &cluster.url()).await;
    let (replica, member) = (&fleet.replicas[0], fleet.conversation(1).await.remove(0));
    let client = cluster.connect().await;
    let ours = "select count(*) from pg_stat_activity
                 where application_name = $1 and backend_start < pg_conf_load_time() and query !~* '^listen'";
    client.batch_execute("alter system set default_transaction_read_only = on").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    refuses_for_now(replica, &member).await;
    eventually("its connections are closed", async || {
        let _ = readiness(replica).await;
        count(&client, ours, "catbird-server").await == 0
    })
    .await;
    client.batch_execute("set default_transaction_read_only = off").await.unwrap();
    client.batch_execute("alter system reset default_transaction_read_only").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    eventually("the server is ready", async || readiness(replica).await.0 == 200).await;
    recovered(replica, &member).await;
}

/// With `synchronous_standby_names` set and no such standby, a COMMIT waits for ever, and its backend with it.
pub async fn commits_that_wait_for_a_standby_take_no_more_connections_than_there_may_be(mode: Mode) {
    const CONNECTIONS: i64 = 5;
    /// Longer than two consecutive COMMIT timeouts.
    const TIME: Duration = Duration::from_secs(12);
    const POOL: &str = "select count(*) from pg_stat_activity where application_name = $1 and query !~* '^listen'";
    let cluster = OwnCluster::start().await;
    let settings = [("DATABASE_MAX_CONNECTIONS", "5")];
    let fleet = Fleet::with(&[mode], &cluster.config(), &cluster.url(), &settings).await;
    let replica = &fleet.replicas[0];
    let conversations = join_all((0..12).map(|_| fleet.conversation(1))).await;
    let reader = fleet.persona(0).await;
    let client = cluster.connect().await;
    client.batch_execute("alter system set synchronous_standby_names = 'ghost'").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    let start = Instant::now();
    let writing = join_all(conversations.iter().map(async |members| {
        while start.elapsed() < TIME {
            let sent = members[0].xrpc.procedure("sendMessage", &message(&members[0], "waits")).await.unwrap();
            assert_eq!(sent.status, 503, "{sent}");
        }
    }));
    let watching = async {
        let (mut most, mut unanswered) = (0, 0.0_f64);
        while start.elapsed() < TIME {
            most = most.max(count(&client, POOL, "catbird-server").await);
            unanswered = unanswered.max(metric(replica, "database_connections_unanswered").await);
            let read = reader.xrpc.query("getConvos", &[]).await.unwrap();
            assert_eq!(read.status, 200, "reads go on: {read}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        (most, unanswered)
    };
    let (_, (most, unanswered)) = join(writing, watching).await;
    assert!(unanswered >= 1.0, "no COMMIT waited");
    assert!(most <= CONNECTIONS, "{most} connections of {CONNECTIONS}");
    client.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
    client.batch_execute("select pg_reload_conf()").await.unwrap();
    eventually("all are answered", async || metric(replica, "database_connections_unanswered").await == 0.0).await;
    recovered(replica, &conversations[0][0]).await;
    fleet.check().await;
}
