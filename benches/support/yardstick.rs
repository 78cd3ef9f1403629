//! The yardstick: pgbench with our own scripts (`benches/yardstick`), straight against the PostgreSQL that the servers use.
//!
//! Every speed of the server is held against it, measured seconds before or after on the same machine.

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
/// What the files are called into which pgbench writes latencies.
const LOG_PREFIX: &str = "pgbench-log";
/// Threads of pgbench itself.
const THREADS: &str = "2";

/// What pgbench does over and over.
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

/// pgbench and the database that it works on.
pub struct Yardstick {
    pgbench: PathBuf,
    url: String,
    /// Where its logs go for as long as they are read.
    logs: PathBuf,
}

impl Yardstick {
    /// Finds pgbench: the one that belongs to the running server, else the first on the search path.
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

    /// Makes tables and data anew.
    pub async fn reset(&self, database: &Client) -> Result<()> {
        database.batch_execute(SCHEMA).await?;
        database.batch_execute("vacuum analyze yardstick.conversations, yardstick.members, yardstick.messages").await?;
        Ok(())
    }

    /// Runs a script; pgbench counts whole seconds, and at least one. The sample lacks its round.
    pub async fn run(&self, script: Script, connections: u32, time: Duration) -> Result<Sample> {
        let seconds = time.as_secs_f64().round().max(1.0);
        // One transaction in ten is plenty where there are many, and each is a line to write.
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
        let rate = figure(&text, "tps = ").ok_or_else(|| format!("pgbench does not say its tps:\n{text}"))?;
        let failed = figure(&text, "number of failed transactions: ").unwrap_or(0.0) as u64;
        Ok(Sample { rate, failed, ..self.latencies()?.sample() })
    }

    /// Reads what pgbench logged, and removes it. A line is client, number, latency in µs, and more (pgbench's manual,
    /// "Per-Transaction Logging").
    fn latencies(&self) -> Result<Latencies> {
        let mut latencies = Latencies::new();
        for entry in std::fs::read_dir(&self.logs)? {
            let path = entry?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LOG_PREFIX)) {
                continue;
            }
            for line in std::fs::read_to_string(&path)?.lines() {
                let us = line.split(' ').nth(2).ok_or_else(|| format!("not a line of pgbench's log: {line}"))?;
                // Instead of a latency it says "failed", which is counted from its summary.
                if let Ok(us) = us.parse() {
                    latencies.add_us(us);
                }
            }
            std::fs::remove_file(path)?;
        }
        Ok(latencies)
    }
}

/// The number after `name` in what pgbench printed.
fn figure(text: &str, name: &str) -> Option<f64> {
    text.split_once(name)?.1.split_whitespace().next()?.parse().ok()
}
