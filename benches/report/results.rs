//! The results of a run as plain data. The scenarios fill it, the report reads it, and `results.json` has the same
//! form.
//!
//! Nothing here measures or prints. Rates are per second, times are microseconds, sizes are bytes.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// All measurements of one `cargo bench`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    pub machine: Machine,
    /// The command line that repeats this run.
    pub command: String,
    /// The configuration of the servers, unless a variant says otherwise.
    pub configuration: String,
    /// Start of the run, RFC 3339.
    pub started: String,
    /// In the order of their first measurement.
    pub series: Vec<Series>,
    pub targets: Vec<Target>,
}

/// The machine. Absolute figures are meaningless without it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    pub cores: u32,
    pub cpu_model: String,
    pub memory_bytes: u64,
    pub os: String,
    pub postgres_version: String,
    /// Output of `rustc --version`, if there is a rustc.
    pub rustc: Option<String>,
    /// The commit that was built, with `-dirty` if the worktree differed from it.
    pub commit: Option<String>,
    /// Whether the server was compiled with optimisation. Figures of a debug build only show that the benches work.
    pub optimised: bool,
}

/// The subject of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Who {
    /// The server with PostgreSQL's advisory lock.
    Advisory,
    /// The server with an actor per conversation.
    Actors,
    /// pgbench, directly against the same PostgreSQL.
    Yardstick,
    /// The load generator against a responder that does no work.
    Generator,
}

/// One line of a plot at one number of connections: the same load, once per round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// The file under `benches/scenarios` that describes it, such as `send`.
    pub scenario: String,
    /// The load of that scenario, such as `spread` or `hot`. Series that are compared have the same variant.
    pub variant: String,
    pub who: Who,
    pub connections: u32,
    /// Unit of `rate`, such as `messages/s`.
    pub unit: String,
    /// One sample for each round, in order.
    pub samples: Vec<Sample>,
    /// A remark about this series for the reader; empty for most.
    pub note: String,
}

/// One load for a few seconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Counted from 1. Samples of one round ran next to each other; ratios are computed from them.
    pub round: u32,
    /// Accepted requests per second.
    pub rate: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// Latencies of accepted requests as (upper bound of the bucket in µs, count), ascending, without empty buckets.
    /// The counts of a yardstick are those of the transactions that pgbench logged.
    pub latency: Vec<(u64, u64)>,
    /// Replies that the scenario expects but does not count as accepted, such as the 409 of a lost race.
    pub refused: u64,
    /// All other replies. A full run has none.
    pub failed: u64,
    /// Processor time of the load generator's thread, as a share of one core. 0 if pgbench generated the load.
    pub client_cpu_share: f64,
    /// Measurements of this scenario alone, by name. Names end in their unit, such as `wal_bytes_per_message`.
    pub extra: BTreeMap<String, f64>,
}

/// A goal and its result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    /// A sentence such as `send, 1,000 conversations, against the yardstick`.
    pub name: String,
    pub who: Who,
    /// The median over rounds, of the ratio within a round if two loads are compared.
    pub measured: f64,
    /// The lowest and the highest round.
    pub rounds: (f64, f64),
    /// Unit of the figures: `×` for a ratio.
    pub unit: String,
    /// The required value.
    pub bound: f64,
    /// The desired value.
    pub aim: f64,
    pub kind: Kind,
}

/// The direction in which a target is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    AtLeast,
    AtMost,
}

impl Target {
    /// Whether the required value was reached.
    pub fn is_met(&self) -> bool {
        self.kind.holds(self.measured, self.bound)
    }

    /// Whether the desired value was reached too.
    pub fn reaches_aim(&self) -> bool {
        self.kind.holds(self.measured, self.aim)
    }
}

impl Kind {
    fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Kind::AtLeast => measured >= bound,
            Kind::AtMost => measured <= bound,
        }
    }
}

impl Run {
    /// Returns the series of that name, if it was measured.
    pub fn series(&self, scenario: &str, variant: &str, who: Who, connections: u32) -> Option<&Series> {
        self.series.iter().find(|series| {
            series.scenario == scenario
                && series.variant == variant
                && series.who == who
                && series.connections == connections
        })
    }

    /// Writes the run as JSON, for programs.
    pub fn write_json(&self, path: &Path) -> std::io::Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
    }
}

impl Series {
    /// The median over rounds of a figure of the samples; `None` without samples.
    pub fn median(&self, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.samples.iter().map(of).collect())
    }

    /// The median over rounds of `of` here divided by `of` there in the same round; `None` if no round has both.
    pub fn ratio(&self, to: &Series, of: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.ratios(to, of))
    }

    /// The ratios of the rounds that both have, in order.
    pub fn ratios(&self, to: &Series, of: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let ratios = self.samples.iter().filter_map(|here| {
            let there = to.samples.iter().find(|there| there.round == here.round)?;
            let ratio = of(here) / of(there);
            ratio.is_finite().then_some(ratio)
        });
        ratios.collect()
    }
}

/// The middle of some figures, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(figures[middle]),
        _ => Some((figures[middle - 1] + figures[middle]) / 2.0),
    }
}
