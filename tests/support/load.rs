//! A load that keeps books: clients that send messages and commits without pause, ask again for as long as they get no
//! answer, and note every acknowledgement, so that afterwards the database can be held to each one of them.
//!
//! A client repeats the very same request (same key, same message id, same commit bytes) after 503 and after silence, at the
//! next server, until it is accepted or refused. So in the end the log must hold what was acknowledged and nothing else.

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

/// How long a client asks for an answer, and how long a test waits for the load to get on.
const PATIENCE: Duration = Duration::from_secs(60);
/// A client's pause before it asks again: shorter than the server proposes, to put it under pressure.
const PAUSE: Duration = Duration::from_millis(25);

/// What all clients share.
#[derive(Clone)]
pub struct Desk {
    /// Where the servers are now.
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

    /// Says where the servers are from now on.
    pub fn servers(&self, fleet: &Fleet) {
        let servers = fleet.replicas.iter().map(|replica| replica.base.parse().unwrap()).collect();
        self.desk.servers.send_replace(servers);
    }

    /// How often a client got 503 or nothing at all.
    pub fn unanswered(&self) -> u64 {
        self.desk.unanswered.load(Ordering::SeqCst)
    }

    /// Waits until so many more requests are acknowledged.
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

    /// Lets every client get its last answer, and closes the books.
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

    /// Sends one request until it is answered. `turn` decides which server is asked first.
    async fn insist(&self, xrpc: &Xrpc, turn: usize, method: &str, body: &Value) -> Reply {
        insist(&self.servers, &self.unanswered, xrpc, turn, method, body).await
    }
}

/// Sends one request to these servers until it is answered. `turn` decides which is asked first, and `unanswered` counts how
/// often there was none.
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
