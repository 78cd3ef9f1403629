//! Servers, proxies and clients of a soak, and its result.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use catbird_testkit::chaos::{self, Chaos};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode, Replica};
use catbird_testkit::proxy::Proxy;
use catbird_testkit::redis::Redis;

use super::Size;
use super::cast::Cast;
use super::verdict::Verdict;

/// Modes of the replicas, in turn.
const MODES: [Mode; 3] = [Mode::Advisory, Mode::Actors, Mode::Advisory];

/// Everything that takes part in a soak.
pub struct Stage {
    pub fleet: Fleet,
    /// Proxies in front of the replicas, to which clients connect.
    pub proxies: Vec<Proxy>,
    /// Proxy between the replicas and PostgreSQL.
    pub postgres: Chaos,
    pub redis: Option<Redis>,
    pub frozen: bool,
    pub database: TestDatabase,
    pub kills: u64,
    pub drains: u64,
    pub cuts: u64,
    pub hints_lost: u64,
    settings: Vec<(&'static str, String)>,
    cast: Cast,
    size: Size,
    began: Instant,
}

impl Stage {
    /// Starts the replicas and the clients, creates the conversations, and starts the traffic.
    pub async fn set(size: Size, replicas: usize, redis: bool) -> Self {
        let database = database().await;
        let postgres = Chaos::before(&database.config).await;
        let redis = redis.then(Redis::start);
        let settings: Vec<(&'static str, String)> = redis.iter().map(|redis| ("REDIS_URL", redis.url())).collect();
        let modes: Vec<Mode> = MODES.into_iter().cycle().take(replicas).collect();
        let fleet = Fleet::with(&modes, &database.config, &postgres.url(), &borrowed(&settings)).await;
        let mut proxies = Vec::new();
        for replica in &fleet.replicas {
            proxies.push(Proxy::before(&replica.base).await);
        }
        let bases = proxies.iter().map(Proxy::base).collect();
        let cast = Cast::start(size, bases, false).await;
        println!(
            "{replicas} replicas, {} Redis; {} members in {} conversations for {} s",
            if redis.is_some() { "with" } else { "without" },
            size.members,
            size.conversations,
            size.lasts.as_secs(),
        );
        Self {
            fleet,
            proxies,
            postgres,
            redis,
            frozen: false,
            database,
            kills: 0,
            drains: 0,
            cuts: 0,
            hints_lost: 0,
            settings,
            cast,
            size,
            began: Instant::now(),
        }
    }

    /// Panics if a client has given up.
    pub fn still_runs(&mut self) {
        self.cast.still_runs();
    }

    /// Replaces the `n`-th server, which is killed or drained.
    pub async fn replace(&mut self, n: usize, kill: bool) {
        match kill {
            true => {
                self.fleet.replicas[n].kill();
                self.kills += 1;
                self.fleet.replicas[n] = self.replica(n).await;
            }
            false => {
                let replacement = self.replica(n).await;
                let old = std::mem::replace(&mut self.fleet.replicas[n], replacement);
                self.proxies[n].redirect(&self.fleet.replicas[n].base);
                assert_eq!(old.terminate().await, Some(0));
                self.drains += 1;
            }
        }
        self.proxies[n].redirect(&self.fleet.replicas[n].base);
    }

    async fn replica(&self, n: usize) -> Replica {
        Replica::start(MODES[n % MODES.len()], &self.postgres.url(), &borrowed(&self.settings)).await
    }

    /// Returns one line on the progress.
    pub fn progress(&self) -> String {
        let (events, again) = self.cast.delivered();
        format!(
            "{} messages, {} commits, {events} events delivered ({again} again), {} reconnects, {} kills, {} cuts",
            self.cast.counts.messages.load(Ordering::SeqCst),
            self.cast.counts.commits.load(Ordering::SeqCst),
            self.cast.reconnects(),
            self.kills,
            self.cuts,
        )
    }

    /// Ends all faults.
    pub async fn heal(&mut self) {
        if let Some(redis) = &mut self.redis {
            redis.kill();
            redis.resume();
        }
        self.frozen = false;
        for replica in &self.fleet.replicas {
            replica.ready().await;
        }
    }

    /// Ends the traffic, waits for the last event, and compares.
    pub async fn end(mut self) {
        let (verdict, missing, wrong) = self.cast.end(&self.database.connect().await).await;
        self.print(&verdict, self.began.elapsed());
        if !missing.is_empty() {
            // The servers' logs may show the cause.
            self.fleet.replicas.iter().flat_map(Replica::log).for_each(|line| println!("{line}"));
        }
        assert!(wrong.is_empty(), "{} findings, incomplete: {missing:#?}\n{}", wrong.len(), wrong.join("\n"));
        assert!(missing.is_empty(), "incomplete, and yet without a finding: {missing:?}");
        self.fleet.check().await;
    }

    fn print(&self, verdict: &Verdict, took: Duration) {
        let ((events, again), reconnects) = (self.cast.delivered(), self.cast.reconnects());
        let mut farewells = std::collections::BTreeMap::<String, u64>::new();
        for checker in &self.cast.checkers {
            checker.with(|seen| {
                for (why, times) in &seen.farewells {
                    *farewells.entry(why.clone()).or_default() += times;
                }
            });
        }
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let rows = [
            ("members, conversations", format!("{}, {}", self.size.members, self.size.conversations)),
            ("seconds", took.as_secs().to_string()),
            ("entries in the log", verdict.entries.to_string()),
            (
                "messages, commits",
                format!("{}, {}", count(&self.cast.counts.messages), count(&self.cast.counts.commits)),
            ),
            ("memberships begun, ended", format!("{}, {}", verdict.begun, verdict.ended)),
            ("requests without an answer", count(&self.cast.unanswered).to_string()),
            ("entries delivered, again", format!("{events}, {again}")),
            ("reconnects", reconnects.to_string()),
            ("streams ended with a word", format!("{farewells:?}")),
            ("replicas killed, drained", format!("{}, {}", self.kills, self.drains)),
            ("connections to PostgreSQL cut", count(&self.postgres.counts().cut).to_string()),
            ("times all clients were cut", self.cuts.to_string()),
            ("times hints were lost", self.hints_lost.to_string()),
        ];
        for (what, figure) in rows {
            println!("  {what:<32} {figure}");
        }
        assert!(count(&self.postgres.counts().cut) > 0 && chaos::Counts::get(&self.postgres.counts().connections) > 0);
        assert!(self.kills > 0 && self.cuts > 0 && self.hints_lost > 0 && reconnects > 0, "too short for its faults");
        assert!(verdict.ended > 0 && again > 0, "nothing was ever removed or repeated");
    }
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}
