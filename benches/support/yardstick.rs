//! The yardstick: pgbench with the scripts in `benches/yardstick`, directly against the PostgreSQL that the servers
//! use.
//!
//! Every speed of the server is compared with it, measured seconds before or after on the same machine.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use catbird_bench_report::results::Sample;
use tokio::process::Command;
use tokio_postgres::Client;

use super::Result;
use super::measurement::Latencies;

/// Tables, data and functions.
const SCHEMA: &str = include_str!("../yardstick/schema.sql");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/yardstick");
/// Prefix of the files into which pgbench writes latencies.
const LOG_PREFIX: &str = "pgbench-log";
/// Threads of pgbench itself.
const THREADS: &str = "2";

/// The transaction that pgbench repeats.
#[derive(Clone, Copy, Debug)]
pub enum Script {
    Send,
    SendHot,
    Commit,
}

impl Script {
    fn path(self) -> PathBuf {
        Path::new(SCRIPTS).join(match self {
            Self::Send => "send.pgbench",
            Self::SendHot => "send_hot.pgbench",
            Self::Commit => "commit.pgbench",
        })
    }
}

/// pgbench and its database.
pub struct Yardstick {
    pgbench: PathBuf,
    url: String,
    /// Directory of its logs while they are read.
    logs: PathBuf,
}

impl Yardstick {
    /// Finds pgbench: the one of the running PostgreSQL, else the first in PATH.
    pub async fn find(database: &Client, url: String, logs: PathBuf) -> Result<Self> {
        let row = database.query_one("select setting from pg_config() where name = 'BINDIR'", &[]).await?;
        let beside = Path::new(row.get::<_, &str>("setting")).join("pgbench");
        let pgbench = if beside.exists() { beside } else { PathBuf::from("pgbench") };
        match Command::new(&pgbench).arg("--version").output().await {
            Err(e) if e.kind() == ErrorKind::NotFound => Err(
                "pgbench is neither beside the running postgres nor on the search path; on Debian and Ubuntu it is in \
                     the package postgresql-contrib or postgresql"
                    .into(),
            ),
            Err(e) => Err(format!("{} cannot be run: {e}", pgbench.display()).into()),
            Ok(_) => Ok(Self { pgbench, url, logs }),
        }
    }

    /// Creates tables and data again.
    pub async fn reset(&self, database: &Client) -> Result<()> {
        database.batch_execute(SCHEMA).await?;
        database.batch_execute("vacuum analyze yardstick.conversations, yardstick.members, yardstick.messages").await?;
        Ok(())
    }

    /// Runs a script for whole seconds, at least one. The sample has no round yet.
    pub async fn run(&self, script: Script, connections: u32, time: Duration) -> Result<Sample> {
        let seconds = time.as_secs_f64().round().max(1.0);
        // With many connections, a sample of one transaction in ten is enough; each logged transaction is a line to
        // write.
        let logged = if connections == 1 { "1" } else { "0.1" };
        let output = Command::new(&self.pgbench)
            .args(["--no-vacuum", "--protocol=prepared", "--log", "--jobs", THREADS])
            .args(["--client", &connections.to_string(), "--time", &seconds.to_string()])
            .args(["--sampling-rate", logged, "--log-prefix", LOG_PREFIX])
            .arg("--file")
            .arg(script.path())
            .arg(&self.url)
            .current_dir(&self.logs)
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            return Err(format!("pgbench failed: {text}{}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let rate = figure(&text, "tps = ").ok_or_else(|| format!("pgbench did not print its tps:\n{text}"))?;
        let failed = figure(&text, "number of failed transactions: ").unwrap_or(0.0) as u64;
        Ok(Sample { rate, failed, ..self.latencies()?.sample() })
    }

    /// Reads pgbench's log and removes it. A line is client, number, latency in µs, and further fields (pgbench's
    /// manual, "Per-Transaction Logging").
    fn latencies(&self) -> Result<Latencies> {
        let mut latencies = Latencies::new();
        for entry in std::fs::read_dir(&self.logs)? {
            let path = entry?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LOG_PREFIX)) {
                continue;
            }
            for line in std::fs::read_to_string(&path)?.lines() {
                let us = line.split(' ').nth(2).ok_or_else(|| format!("not a line of pgbench's log: {line}"))?;
                // A failed transaction has "failed" instead of a latency; it is counted from the summary.
                if let Ok(us) = us.parse() {
                    latencies.add_us(us);
                }
            }
            std::fs::remove_file(path)?;
        }
        Ok(latencies)
    }
}

/// Returns the number after `name` in pgbench's output.
fn figure(text: &str, name: &str) -> Option<f64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}
