//! Clients of a soak: they send, change rosters and follow, whatever happens to the servers; and the comparison at the
//! end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catbird_client::random_did;
use catbird_client::xrpc::Xrpc;
use catbird_testkit::app::validated;
use reqwest::Url;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, watch};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::Size;
use super::traffic::{self, Convo, Counts, Desk};
use super::verdict::Verdict;
use crate::delivery::checker::{Checker, Seen};

/// Maximum time for the last entry to reach all clients once everything works.
const PATIENCE: Duration = Duration::from_secs(60);

/// All clients of a soak.
pub struct Cast {
    pub people: Vec<Xrpc>,
    pub checkers: Vec<Checker>,
    pub convos: Vec<Arc<Convo>>,
    pub counts: Arc<Counts>,
    pub unanswered: Arc<AtomicU64>,
    /// Servers for clients that follow and for those that call methods.
    servers: (watch::Sender<Vec<String>>, Arc<watch::Sender<Vec<Url>>>),
    stop: watch::Sender<bool>,
    gate: Arc<RwLock<()>>,
    workers: JoinSet<()>,
}

impl Cast {
    /// Starts the clients that follow at these servers, creates the conversations, and starts the traffic. With
    /// `may_lose` the servers may get a database that lacks acknowledged requests.
    pub async fn start(size: Size, bases: Vec<String>, may_lose: bool) -> Self {
        let urls = Arc::new(watch::Sender::new(urls(&bases)));
        let one = validated(&bases[0], &random_did());
        let people: Vec<Xrpc> = (0..size.members).map(|_| one.signed_in_as(&random_did())).collect();
        let (change, servers) = watch::channel(bases);
        // Before any conversation exists, so that each membership is seen from its start.
        let checkers: Vec<Checker> =
            people.iter().enumerate().map(|(n, who)| Checker::start_at(who, servers.clone(), n)).collect();
        for checker in &checkers {
            assert!(checker.within(PATIENCE, |seen| seen.live).await, "a stream did not open: {:?}", checker.seen());
        }
        let (stop, stopping) = watch::channel(false);
        let (counts, unanswered) = (Arc::new(Counts::default()), Arc::new(AtomicU64::new(0)));
        let gate = Arc::new(RwLock::new(()));
        let desk = Desk {
            servers: urls.clone(),
            stopping,
            gate: gate.clone(),
            may_lose,
            unanswered: unanswered.clone(),
            counts: counts.clone(),
            people: people.clone().into(),
        };
        let (mut workers, mut convos) = (JoinSet::new(), Vec::new());
        for n in 0..size.conversations {
            let convo = Arc::new(Convo::create(&desk, n, size.roster).await);
            workers.spawn(traffic::change(desk.clone(), convo.clone(), n));
            workers.spawn(traffic::send(desk.clone(), convo.clone(), n));
            convos.push(convo);
        }
        Self { people, checkers, convos, counts, unanswered, servers: (change, urls), stop, gate, workers }
    }

    /// Moves all clients to these servers.
    pub fn go_to(&self, bases: Vec<String>) {
        self.servers.1.send_replace(urls(&bases));
        self.servers.0.send_replace(bases);
    }

    /// Panics if a client has given up.
    pub fn still_runs(&mut self) {
        if let Some(died) = self.workers.try_join_next() {
            panic!("a client gave up: {died:?}");
        }
        for checker in &self.checkers {
            checker.with(|seen| assert!(seen.broken.is_empty(), "{}", seen.broken.join("\n")));
        }
    }

    /// Waits until this many more messages and commits are acknowledged.
    pub async fn progress(&mut self, more: u64) {
        let (begin, goal) = (Instant::now(), self.acknowledged() + more);
        while self.acknowledged() < goal {
            assert!(begin.elapsed() < PATIENCE, "the traffic stood still");
            self.still_runs();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn acknowledged(&self) -> u64 {
        self.counts.messages.load(Ordering::SeqCst) + self.counts.commits.load(Ordering::SeqCst)
    }

    /// Pauses all requests until the value is dropped. Requests in progress are answered first.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        self.gate.clone().write_owned().await
    }

    /// Sums a value over all clients that follow.
    pub fn sum(&self, of: impl Fn(&Seen) -> u64) -> u64 {
        self.checkers.iter().map(|checker| checker.with(&of)).sum()
    }

    /// Returns the number of events with an entry, and the number of repetitions.
    pub fn delivered(&self) -> (u64, u64) {
        (self.sum(|seen| seen.counts().0), self.sum(|seen| seen.counts().1))
    }

    pub fn reconnects(&self) -> u64 {
        self.sum(|seen| seen.connections.saturating_sub(1))
    }

    /// Ends the traffic, waits for the last event, and compares the records of all clients with the database: missing
    /// events and wrong ones.
    pub async fn end(&mut self, db: &Client) -> (Verdict, Vec<String>, Vec<String>) {
        self.stop.send_replace(true);
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        let verdict = Verdict::read(db).await;
        let deadline = Instant::now() + PATIENCE;
        let mut missing = Vec::new();
        for (who, checker) in self.people.iter().zip(&self.checkers) {
            let left = deadline.saturating_duration_since(Instant::now());
            if !checker.within(left, |seen| verdict.is_complete(&who.did, seen)).await {
                missing.push(format!("{}: {}", who.did, checker.whereabouts()));
            }
        }
        let mut wrong = Vec::new();
        for (who, checker) in self.people.iter().zip(&self.checkers) {
            wrong.extend(checker.with(|seen| verdict.judge(&who.did, seen)));
        }
        (verdict, missing, wrong)
    }
}

fn urls(bases: &[String]) -> Vec<Url> {
    bases.iter().map(|base| base.parse().unwrap()).collect()
}
