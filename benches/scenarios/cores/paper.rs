//! One PostgreSQL of 64 cores on paper: what it carries, from the processor time and the write-ahead log of a message as
//! they were just measured, and a simulation that is first compared with the pinned loads of this machine.
//!
//! The simulation has the costs of "all on N" and predicts the rate of every other pinning. What it predicts worse than
//! [`NEAR`] is not what it assumes. Nothing here is measured on a large machine: caches, memory and locks that
//! are shared by more cores make a message more expensive there, which [`GROWTH`] assumes at its worst.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Instant;

use catbird_bench_report::results::{Series, median};

use super::{CONNECTIONS, MANY_CONNECTIONS, NAME, SERVER};
use crate::support::Result;
use crate::support::plan::Plan;
use crate::support::queueing::Network;

/// Cores of the PostgreSQL on paper.
const CORES: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// How much of a prediction may be missing, as a share.
const NEAR: f64 = 0.25;
/// How much more expensive a message becomes with each doubling of the cores, as a share: as much as this machine shows
/// between one and two at most.
const GROWTH: f64 = 0.1;
/// Requests that wait in PostgreSQL for each of its cores: enough that none is idle while others wait for the disk.
const REQUESTS_PER_CORE: usize = 64;
/// Write-ahead log that one disk takes, in bytes per second, of a server with NVMe disks.
const LOG_BYTES_PER_SECOND: f64 = 1e9;
/// Flushes whose time is measured, of one block each.
const FLUSHES: usize = 200;
const BLOCK: usize = 8_192;

/// The measured costs of a message.
pub struct Paper {
    lines: Vec<String>,
}

impl Paper {
    pub fn of(series: &[Series], cores: usize, plan: &Plan) -> Result<Self> {
        let rounds = plan.size(200_000, 2_000).into();
        let flush_us = flush_us(&plan.out)?;
        let mine: Vec<&Series> =
            series.iter().filter(|series| series.scenario == NAME && series.who == SERVER).collect();
        let find = |variant: &str, connections| {
            let found = mine.iter().find(|series| series.variant == variant && series.connections == connections);
            found.copied().ok_or_else(|| format!("{variant} was not measured"))
        };
        // The largest power of two.
        let whole = format!("all on {}", 1 << cores.ilog2());
        let (some, many) = (find(&whole, CONNECTIONS)?, find(&whole, MANY_CONNECTIONS)?);
        let mut lines = vec![format!("a flush of the write-ahead log takes {flush_us:.0} us (median of {FLUSHES})")];

        let [server, postgres, generator] = ["server", "postgres", "generator"].map(|part| of_part(some, part));
        for series in &mine {
            let Some((stations, [at_server, at_postgres, at_generator])) = stations(&series.variant) else { continue };
            if series.connections != CONNECTIONS {
                continue;
            }
            let network = Network {
                cores: stations,
                route: vec![(at_generator, generator), (at_server, server), (at_postgres, postgres)],
                flush_us,
                requests: CONNECTIONS as usize,
            };
            let (predicted, measured) = (network.rate(rounds), series.median(|sample| sample.rate).unwrap_or_default());
            let verdict = if (predicted / measured - 1.0).abs() <= NEAR { "near" } else { "not near" };
            lines.push(format!(
                "{}: {measured:.0} messages/s measured, {predicted:.0} simulated: {verdict}",
                series.variant
            ));
        }

        let (postgres, log_bytes) = (of_part(many, "postgres"), extra(many, "wal_bytes_per_message"));
        lines.push(format!(
            "{MANY_CONNECTIONS} connections: {postgres:.1} us of PostgreSQL, {:.1} us of the server and {log_bytes:.0} bytes of log for each message",
            of_part(many, "server")
        ));
        for cores in CORES {
            let dearer = postgres * (1.0 + GROWTH).powi(cores.ilog2() as i32);
            let [rate, rate_if_dearer] = [postgres, dearer].map(|postgres_us| {
                let requests = cores * REQUESTS_PER_CORE;
                Network { cores: vec![cores], route: vec![(0, postgres_us)], flush_us, requests }.rate(rounds)
            });
            lines.push(format!(
                "PostgreSQL on {cores} cores: {rate_if_dearer:.0} to {rate:.0} messages/s, {:.0} to {:.0} MB/s of log, of which a disk takes {:.0}; servers need {:.0} cores",
                rate_if_dearer * log_bytes / 1e6,
                rate * log_bytes / 1e6,
                LOG_BYTES_PER_SECOND / 1e6,
                rate * of_part(many, "server") / 1e6,
            ));
        }
        Ok(Self { lines })
    }

    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// The stations of a pinning's network, by its name, and those of the server, PostgreSQL and the generator.
fn stations(variant: &str) -> Option<(Vec<usize>, [usize; 3])> {
    let numbers: Vec<usize> =
        variant.split([' ', ',']).filter_map(|word| word.parse().ok()).filter(|number| *number > 0).collect();
    let places = match variant.split(' ').next()? {
        "server" => [0, 1, 1],
        "PostgreSQL" => [1, 0, 1],
        _ => [0, 0, 0],
    };
    Some((numbers, places))
}

/// Processor time of a part for a message, in µs.
fn of_part(series: &Series, part: &str) -> f64 {
    extra(series, &format!("{part}_cpu_us_per_message"))
}

fn extra(series: &Series, name: &str) -> f64 {
    let figures = series.samples.iter().filter_map(|sample| sample.extra.get(name).copied());
    median(figures.collect()).unwrap_or_default()
}

/// The median time of writing a block and waiting for the disk, in µs.
fn flush_us(dir: &Path) -> Result<f64> {
    let path = dir.join("flush");
    let mut file = File::create(&path)?;
    // PostgreSQL writes into files that have their size already.
    file.write_all(&vec![0; BLOCK * FLUSHES])?;
    file.sync_all()?;
    file.rewind()?;
    let mut took = Vec::new();
    for _ in 0..FLUSHES {
        let begin = Instant::now();
        file.write_all(&[7; BLOCK])?;
        file.sync_data()?;
        took.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    std::fs::remove_file(path)?;
    Ok(median(took).unwrap_or_default())
}
