//! Connections to PostgreSQL that break, or that look alive and are not.

use std::time::Duration;

use catbird_testkit::chaos::{Chaos, Counts, Fault};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::load::Load;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::tools::{ADD, DEADLINE, SEND, count, eventually, message, recovered};

/// Number of times that a load is disturbed.
const ROUNDS: u64 = 15;

pub async fn terminated_backends_lose_nothing(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode, mode], &database.config, &database.url).await;
    let client = database.connect().await;
    let mut load = Load::start(&fleet, 2).await;
    let mut terminated = 0;
    for _ in 0..ROUNDS {
        load.progress(10).await;
        let query = "select count(*) filter (where pg_terminate_backend(pid)) from pg_stat_activity
                      where datname = current_database() and application_name = 'catbird-server'";
        terminated += client.query_one(query, &[]).await.unwrap().get::<_, i64>(0);
    }
    load.progress(10).await;
    let plain = fleet.persona(0).await;
    load.stop().await.audit(&database.config).await;
    assert!(terminated as u64 >= ROUNDS, "only {terminated} connections were ended");
    for replica in &fleet.replicas {
        recovered(replica, &plain).await;
    }
    fleet.check().await;
}

/// Cuts all connections at random moments, and some connections at the worst moment on purpose.
pub async fn cut_connections_lose_nothing(mode: Mode) {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let fleet = Fleet::start(&[mode, mode], &database.config, &chaos.url()).await;
    let mut load = Load::start(&fleet, 2).await;
    for round in 0..ROUNDS {
        // Slower transactions are cut in the middle more often.
        chaos.delay(Duration::from_millis(u64::from(round % 5 == 0)));
        for statement in [SEND, ADD] {
            chaos.on_commit(statement, Fault::LoseReply);
            chaos.on_commit(statement, Fault::CutBefore);
        }
        load.progress(10).await;
        chaos.cut_all();
    }
    chaos.delay(Duration::ZERO);
    load.progress(10).await;
    let plain = fleet.persona(0).await;
    load.stop().await.audit(&database.config).await;
    let counts = chaos.counts();
    assert!(Counts::get(&counts.cut) >= ROUNDS, "{counts:?}");
    assert!(Counts::get(&counts.swallowed) >= ROUNDS, "{counts:?}");
    assert!(Counts::get(&counts.withheld) >= ROUNDS, "{counts:?}");
    for replica in &fleet.replicas {
        recovered(replica, &plain).await;
    }
    fleet.check().await;
}

/// PostgreSQL accepts connections and answers nothing. Slow: every time limit must expire, at most ten seconds for a
/// read or a write, and thirteen more for a COMMIT that was sent.
pub async fn a_black_hole_is_answered_in_time_and_recovered_from(mode: Mode) {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let fleet = Fleet::start(&[mode], &database.config, &chaos.url()).await;
    let members = fleet.conversation(3).await;
    let mut load = Load::start(&fleet, 1).await;
    load.progress(20).await;
    chaos.black_hole(true);
    let before = load.unanswered();

    // More requests than the pool has connections; those of the load are interrupted.
    let start = Instant::now();
    let asking = (0..30).map(|n| {
        let sender = &members[n % members.len()];
        async move {
            match n % 2 {
                0 => sender.xrpc.procedure("sendMessage", &message(sender, &n.to_string())).await.unwrap(),
                _ => {
                    sender.xrpc.query("getMessages", &[("convoId", sender.convo().unwrap().to_owned())]).await.unwrap()
                }
            }
        }
    });
    for reply in join_all(asking).await {
        assert_eq!(reply.status, 503, "{reply}");
        assert!(reply.headers.contains_key("retry-after") && reply.retry_after().is_some(), "{reply}");
    }
    assert!(start.elapsed() < DEADLINE, "the last answer came after {:?}", start.elapsed());
    eventually("each client of the load was refused", async || load.unanswered() >= before + 5).await;
    assert!(Counts::get(&chaos.counts().stuck) > 0, "nothing met the black hole");

    chaos.black_hole(false);
    load.progress(20).await;
    load.stop().await.audit(&database.config).await;
    recovered(&fleet.replicas[0], &members[0]).await;
    let client = database.connect().await;
    assert_eq!(
        count(
            &client,
            "select count(*) from messages where convo_id = $1 and message_type = 'app'",
            members[0].convo().unwrap()
        )
        .await,
        0,
        "what was refused was not done"
    );
    fleet.check().await;
}

/// Connections that a firewall has dropped, or whose backend is stopped: open, and silent for ever. The first one costs
/// the requests that wait for it; then the idle connections are discarded too, so no later request meets one.
pub async fn a_connection_that_looks_alive_costs_one_request_and_no_other(mode: Mode) {
    let database = database().await;
    let chaos = Chaos::before(&database.config).await;
    let fleet = Fleet::start(&[mode], &database.config, &chaos.url()).await;
    let conversations = join_all((0..20).map(|_| fleet.conversation(1))).await;
    // Messages share connections and each read has its own, so together they meet every connection of the pool.
    let everybody_asks = async |round: &str| {
        let asking = conversations.iter().map(async |members| {
            let body = message(&members[0], round);
            let sending = members[0].xrpc.procedure("sendMessage", &body);
            let (sent, read) = tokio::join!(sending, members[0].xrpc.query("getConvos", &[]));
            [sent.unwrap(), read.unwrap()].map(|reply| {
                assert!(reply.status == 200 || reply.headers.contains_key("retry-after"), "{reply}");
                reply.status
            })
        });
        join_all(asking).await.concat()
    };
    assert_eq!(everybody_asks("before").await, [200; 40]);
    chaos.freeze_all();
    let met = everybody_asks("meets them").await;
    assert!(met.iter().all(|status| [200, 503].contains(status)), "{met:?}");
    assert!(Counts::get(&chaos.counts().stuck) >= 1, "no request met a frozen connection");
    assert_eq!(everybody_asks("after").await, [200; 40], "the frozen connections are still in the pool");
    recovered(&fleet.replicas[0], &conversations[0][0]).await;
    fleet.check().await;
}
