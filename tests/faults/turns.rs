//! P3, P10: several replicas that write one conversation take turns with a batch each, as one replica would by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::tools::{entries, message, metric};
use crate::support::cluster::database;
use crate::support::fleet::{Fleet, Mode, Replica};

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
        batches += committed(replica, "sendMessages").await;
        alone += committed(replica, "sendMessage").await;
    }
    println!("{sent} messages, {batches} batches, {alone} alone");
    assert_eq!(alone, 0.0, "of {sent} messages, none of which is at fault, had a transaction of their own");
    assert!(batches <= sent as f64 / 4.0, "{batches} batches for {sent} messages");
    fleet.check().await;
}
