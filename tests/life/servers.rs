//! Two replicas with different serializers on one database. The first one reaches it through a proxy that cuts connections.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use catbird_client::xrpc::{Reply, Xrpc, XrpcError};
use catbird_server::check;
use catbird_testkit::app::validated;
use catbird_testkit::chaos::Chaos;
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::Value;

use crate::schedule::Fault;

const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];
/// Maximum time until a request is answered, faults included.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(10);

pub struct Servers {
    replicas: Vec<Replica>,
    /// True for replicas that were killed.
    dead: [bool; MODES.len()],
    chaos: Chaos,
    database: TestDatabase,
    tally: Tally,
}

/// Number of requests by method and outcome.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<String, u64>);

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(what, count)| writeln!(f, "{count:6} {what}"))
    }
}

impl Servers {
    pub async fn start() -> Self {
        let database = database().await;
        let chaos = Chaos::before(&database.config).await;
        let mut servers =
            Self { replicas: Vec::new(), dead: [false; MODES.len()], chaos, database, tally: Tally::default() };
        for n in 0..MODES.len() {
            let replica = servers.replica(n).await;
            servers.replicas.push(replica);
        }
        servers
    }

    async fn replica(&self, n: usize) -> Replica {
        let url = if n == 0 { self.chaos.url() } else { self.database.url.clone() };
        Replica::start(MODES[n], &url, &[("EXTERNAL_COMMIT_SECONDS", "0")]).await
    }

    /// Starts the replicas again that were killed.
    pub async fn revive(&mut self) {
        for n in 0..MODES.len() {
            if std::mem::take(&mut self.dead[n]) {
                self.replicas[n] = self.replica(n).await;
            }
        }
    }

    /// Signs a person in.
    pub fn sign_in(&self, did: &str) -> Xrpc {
        validated(&self.replicas[0].base, did)
    }

    fn at(&self, n: usize, who: &Xrpc) -> Xrpc {
        who.at(self.replicas[n % MODES.len()].base.parse().unwrap())
    }

    /// Calls a query of a replica until it answers.
    pub async fn read(&self, n: usize, who: &Xrpc, method: &str, parameters: &[(&str, String)]) -> Reply {
        let (start, who) = (Instant::now(), self.at(n, who));
        loop {
            match who.query(method, parameters).await {
                Ok(reply) if reply.status != 503 => return reply,
                Ok(_) | Err(XrpcError::NoAnswer { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(start.elapsed() < PATIENCE, "no answer to {method} in {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Calls a procedure at a replica, and at the next one if that does not answer, until one does.
    pub async fn insist(&self, n: usize, who: &Xrpc, method: &str, body: &Value) -> Reply {
        let start = Instant::now();
        for attempt in 0.. {
            match self.at(n + attempt, who).procedure(method, body).await {
                Ok(reply) if reply.status != 503 => return reply,
                Ok(_) | Err(XrpcError::NoAnswer { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            assert!(start.elapsed() < PATIENCE, "no answer to {method} in {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
        unreachable!("attempts do not end")
    }

    /// Calls a procedure while something breaks.
    pub async fn ask(&mut self, n: usize, who: &Xrpc, method: &str, body: &Value, fault: Fault) -> Reply {
        let reply = self.ask_during(n, who, method, body, fault).await;
        let fault = format!("{fault:?}");
        let fault = fault.split('(').next().unwrap_or_default();
        *self.tally.0.entry(format!("{method} {} {fault}", reply.error().unwrap_or("ok"))).or_default() += 1;
        reply
    }

    async fn ask_during(&mut self, n: usize, who: &Xrpc, method: &str, body: &Value, fault: Fault) -> Reply {
        let first = self.at(n, who);
        match fault {
            Fault::None => self.insist(n, who, method, body).await,
            Fault::Twice => {
                let (one, other) =
                    tokio::join!(self.insist(n, who, method, body), self.insist(n + 1, who, method, body));
                assert_eq!(
                    effect(&one),
                    effect(&other),
                    "two replicas answer one request differently: {one} and {other}"
                );
                one
            }
            Fault::LoseReply(ms) => {
                let _ = tokio::time::timeout(Duration::from_millis(ms), first.procedure(method, body)).await;
                self.insist(n + 1, who, method, body).await
            }
            Fault::Kill(ms) => {
                let replica = &mut self.replicas[n % MODES.len()];
                let killing = async {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    replica.kill();
                };
                let _ = tokio::join!(first.procedure(method, body), killing);
                self.dead[n % MODES.len()] = true;
                let reply = self.insist(n + 1, who, method, body).await;
                self.revive().await;
                reply
            }
            Fault::CutDatabase(ms) => {
                let cutting = async {
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                    self.chaos.cut_all();
                };
                tokio::join!(self.insist(0, who, method, body), cutting).0
            }
        }
    }

    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Checks the invariants of the database.
    pub async fn check(&self) {
        let report = check::run(&self.database.config).await.unwrap();
        assert!(report.is_clean(), "{report}");
    }
}

/// The part of a reply that is the same for a repeated request.
pub fn effect(reply: &Reply) -> (u16, Option<String>, [Value; 4]) {
    let fields = ["epoch", "seq", "newEpoch", "messageId"].map(|field| reply.body[field].clone());
    (reply.status, reply.error().map(str::to_owned), fields)
}
