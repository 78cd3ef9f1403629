//! The plan of a run: the command line, and the order of the loads.

use std::path::PathBuf;
use std::time::Duration;

use catbird_bench_report::results::Who;
use clap::Parser;

use super::generator::Timing;

/// Warm-up before a load, as a share of its time. It fills caches and pools.
const WARM_UP_SHARE: f64 = 0.2;

/// Measures the server in front of PostgreSQL against PostgreSQL alone.
///
/// Real server processes, one per mode, and pgbench take turns on one durable PostgreSQL. Without --bench, which `cargo
/// bench` adds and `cargo test` does not, every scenario runs only for a moment, to prove that it still works.
#[derive(Parser, Debug)]
#[command(override_usage = "cargo bench -- [WORD]... [--rounds N] [--seconds S] [--rows N] [--out DIR]")]
pub struct Arguments {
    /// Run only scenarios whose name contains one of these words
    pub words: Vec<String>,
    /// Number of rounds; figures are medians over the rounds [3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// Seconds for which each load is measured [3]
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Messages in the database of the scenario `retention` [5000000], and in the long log of `flat` [1000000]
    #[arg(long, value_parser = clap::value_parser!(i64).range(10_000..=1_000_000_000))]
    rows: Option<i64>,
    /// Directory for logs, figures and the report [target/bench-report, or target/bench-quick without --bench]
    #[arg(long)]
    out: Option<PathBuf>,
    #[arg(long, hide = true)]
    bench: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number from 0.1 to 600".to_owned()),
    }
}

/// The command line with all defaults applied.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The run only proves that every scenario works.
    pub quick: bool,
    pub rounds: u32,
    pub timing: Timing,
    pub connections: &'static [u32],
    /// Messages of the scenarios `flat` and `retention`, if the command line says.
    pub rows: Option<i64>,
    pub out: PathBuf,
}

/// One load: its subject, its number of connections, and its round.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub round: u32,
    pub connections: u32,
    pub who: Who,
}

/// Subjects of scenarios that pgbench can run too.
pub const SUBJECTS: [Who; 3] = [Who::Yardstick, Who::Advisory, Who::Actors];
/// Subjects of scenarios that only a server can run.
pub const SERVERS: [Who; 2] = [Who::Advisory, Who::Actors];

impl Arguments {
    pub fn plan(&self) -> Plan {
        let quick = !self.bench;
        let (rounds, seconds, connections, out): (_, _, &[u32], _) = match quick {
            true => (1, 0.2, &[1, 8], "target/bench-quick"),
            false => (3, 3.0, &[1, 8, 32, 128], "target/bench-report"),
        };
        let measured = Duration::from_secs_f64(self.seconds.unwrap_or(seconds));
        Plan {
            quick,
            rounds: self.rounds.unwrap_or(rounds),
            timing: Timing { warm_up: measured.mul_f64(WARM_UP_SHARE), measured },
            connections,
            rows: self.rows,
            out: self.out.clone().unwrap_or_else(|| out.into()),
        }
    }
}

impl Plan {
    /// The loads of all subjects. Loads that are compared run next to each other, and the first subject alternates.
    pub fn turns(&self, who: &[Who]) -> Vec<Turn> {
        let mut turns = Vec::new();
        for round in 1..=self.rounds {
            for &connections in self.connections {
                let mut turn: Vec<Turn> = who.iter().map(|&who| Turn { round, connections, who }).collect();
                if round % 2 == 0 {
                    turn.reverse();
                }
                turns.extend(turn);
            }
        }
        turns
    }

    /// Returns `full`, or `quick` in a quick run.
    pub fn size(&self, full: u32, quick: u32) -> u32 {
        if self.quick { quick } else { full }
    }

    /// Returns the number of rows that the command line has, else `full`, or `quick` in a quick run.
    pub fn rows(&self, full: u32, quick: u32) -> i64 {
        self.rows.unwrap_or_else(|| i64::from(self.size(full, quick)))
    }

    /// Time of this many loads in each turn of each of `who`.
    pub fn time(&self, loads: u32, who: &[Who]) -> Duration {
        (self.timing.warm_up + self.timing.measured) * loads * self.turns(who).len() as u32
    }
}
