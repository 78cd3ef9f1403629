//! A load with records: clients send messages and commits without pause, retry until they get an answer, and record
//! every acknowledgement, so that the database can be compared with the records.
//!
//! A client repeats the same request (same key, same message id, same commit bytes) after 503 and after silence, at the
//! next server, until it is accepted or refused. In the end the log must contain the acknowledged requests and nothing
//! else.

mod ledger;
mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use catbird_client::xrpc::{Reply, Xrpc, XrpcError};
use reqwest::Url;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::fleet::Fleet;
pub use ledger::{Ack, Ledger};

/// Time for which a client retries, and for which a test waits for progress.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before a client retries: shorter than the server proposes, to put it under pressure.
const PAUSE: Duration = Duration::from_millis(25);

/// State shared by all clients.
#[derive(Clone)]
pub struct Desk {
    /// Present addresses of the servers.
    servers: Arc<watch::Sender<Vec<Url>>>,
    stopping: watch::Receiver<bool>,
    ledger: Arc<Ledger>,
    unanswered: Arc<AtomicU64>,
}

/// A running load.
pub struct Load {
    desk: Desk,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// Starts three senders and two committers in each of some new conversations.
    pub async fn start(fleet: &Fleet, convos: usize) -> Self {
        let (stop, stopping) = watch::channel(false);
        let servers = fleet.replicas.iter().map(|replica| replica.base.parse().unwrap()).collect();
        let desk = Desk {
            servers: Arc::new(watch::Sender::new(servers)),
            stopping,
            ledger: Arc::default(),
            unanswered: Arc::default(),
        };
        let mut workers = JoinSet::new();
        for _ in 0..convos {
            let members = fleet.conversation(5).await;
            desk.ledger.open(members[0].convo().unwrap(), members[0].last_seq);
            for (n, member) in members.into_iter().enumerate() {
                match n {
                    0 | 1 => workers.spawn(workers::commit(desk.clone(), member)),
                    _ => workers.spawn(workers::send(desk.clone(), member, n)),
                };
            }
        }
        Self { desk, stop, workers }
    }

    /// Sets the addresses of the servers.
    pub fn servers(&self, fleet: &Fleet) {
        let servers = fleet.replicas.iter().map(|replica| replica.base.parse().unwrap()).collect();
        self.desk.servers.send_replace(servers);
    }

    /// Counts how often a client got 503 or no answer.
    pub fn unanswered(&self) -> u64 {
        self.desk.unanswered.load(Ordering::SeqCst)
    }

    /// Waits until this many more requests are acknowledged.
    pub async fn progress(&mut self, more: u64) {
        let mut acknowledged = self.desk.ledger.acknowledged();
        let goal = *acknowledged.borrow() + more;
        tokio::select! {
            got_there = tokio::time::timeout(PATIENCE, acknowledged.wait_for(|count| *count >= goal)) => {
                assert!(got_there.is_ok(), "the load stood still for {PATIENCE:?}");
            }
            Some(died) = self.workers.join_next() => panic!("a client gave up: {died:?}"),
        }
    }

    /// Waits for the last answer of every client, and returns the records.
    pub async fn stop(mut self) -> Arc<Ledger> {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        self.desk.ledger
    }
}

impl Desk {
    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Sends one request until it is answered. `turn` selects the first server.
    async fn insist(&self, xrpc: &Xrpc, turn: usize, method: &str, body: &Value) -> Reply {
        insist(&self.servers, &self.unanswered, xrpc, turn, method, body).await
    }
}

/// Sends one request to these servers until it is answered. `turn` selects the first one, and `unanswered` counts
/// failed attempts.
pub async fn insist(
    servers: &watch::Sender<Vec<Url>>,
    unanswered: &AtomicU64,
    xrpc: &Xrpc,
    turn: usize,
    method: &str,
    body: &Value,
) -> Reply {
    let start = Instant::now();
    for attempt in 0.. {
        let servers = servers.borrow().clone();
        let server = xrpc.at(servers[(turn + attempt) % servers.len()].clone());
        match server.procedure(method, body).await {
            Ok(reply) if reply.status != 503 => return reply,
            Ok(reply) => assert!(reply.headers.contains_key("retry-after"), "{reply}"),
            Err(XrpcError::NoAnswer { source, .. }) if !source.is_timeout() => {}
            Err(other) => panic!("{other}"),
        }
        unanswered.fetch_add(1, Ordering::SeqCst);
        assert!(start.elapsed() < PATIENCE, "no answer to {method} in {PATIENCE:?}");
        tokio::time::sleep(PAUSE).await;
    }
    unreachable!("attempts do not end")
}
