//! P3, P10: several replicas that write one conversation alternate batches, like one replica alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::tools::{entries, eventually, message, metric};

/// At each replica.
const CONNECTIONS: usize = 32;
const TIME: Duration = Duration::from_secs(3);

async fn committed(replica: &Replica, name: &str) -> f64 {
    metric(replica, &format!("database_transactions_total{{name=\"{name}\",outcome=\"committed\"}}")).await
}

pub async fn replicas_that_write_one_conversation_take_turns_with_batches(mode: Mode) {
    let database = database().await;
    let fleet = Fleet::start(&[mode, mode], &database.config, &database.url).await;
    let members = fleet.conversation(1).await;
    let sender = &members[0];
    let sent = AtomicU64::new(0);
    let start = Instant::now();
    join_all((0..2 * CONNECTIONS).map(async |n| {
        let xrpc = sender.xrpc.at(fleet.replicas[n % 2].base.parse().unwrap());
        for turn in 0.. {
            if start.elapsed() > TIME {
                return;
            }
            let reply = xrpc.procedure("sendMessage", &message(sender, &format!("{n} {turn}"))).await.unwrap();
            assert_eq!(reply.status, 200, "{reply}");
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }))
    .await;
    let sent = sent.into_inner();
    let client = database.connect().await;
    assert_eq!(entries(&client, sender.convo().unwrap()).await as u64, sent);
    let (mut batches, mut alone) = (0.0, 0.0);
    for replica in &fleet.replicas {
        batches += committed(replica, "sendMessage.batch").await;
        alone += committed(replica, "sendMessage").await;
    }
    println!("{sent} messages, {batches} batches, {alone} alone");
    assert_eq!(alone, 0.0, "of {sent} messages, none of which is at fault, had a transaction of their own");
    assert!(batches <= sent as f64 / 4.0, "{batches} batches for {sent} messages");
    fleet.check().await;
}

/// A batch that waits for another transaction includes requests that arrive meanwhile.
pub async fn requests_that_arrive_while_a_batch_waits_join_it() {
    let database = database().await;
    let fleet = Fleet::start(&[Mode::Advisory], &database.config, &database.url).await;
    let members = fleet.conversation(1).await;
    let (sender, convo) = (&members[0], members[0].convo().unwrap());
    let (client, watcher) = (database.connect().await, database.connect().await);
    let send = async |n: i64| {
        let reply = sender.xrpc.procedure("sendMessage", &message(sender, &n.to_string())).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
    };
    client.batch_execute("begin").await.unwrap();
    client.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", &[&convo]).await.unwrap();
    let others = async {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        eventually("the first one waits", async || watcher.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0)
            .await;
        let release = async {
            // Some of them have arrived by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            client.batch_execute("commit").await.unwrap();
        };
        futures_util::join!(join_all((1..=10).map(&send)), release);
    };
    futures_util::join!(send(0), others);
    let query = "select count(*) from messages m where convo_id = $1 and message_type = 'app'
                    and tx = (select tx from messages where convo_id = $1 and message_type = 'app' order by seq limit 1)";
    let together: i64 = watcher.query_one(query, &[&convo]).await.unwrap().get(0);
    assert!(together > 1, "the first one had its transaction for itself");
    fleet.check().await;
}
