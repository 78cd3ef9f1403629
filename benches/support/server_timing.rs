//! Times that the server measures itself: what a request waits for PostgreSQL, and the rest, which is the server's own
//! work.
//!
//! The header `Server-Timing` of a reply has the time of each stage in milliseconds. A server sends it if it has a
//! `JWT_SECRET`.

use std::sync::{Arc, Mutex, PoisonError};

use catbird_bench_report::results::Sample;

use super::generator::{Client, Reply, Verdict};

const HEADER: &str = "server-timing:";
const TOTAL: &str = "total";
/// Stages in which a request waits for PostgreSQL, or for a connection to it.
const DATABASE: [&str; 6] = ["spend", "connection", "lock", "transaction", "commit", "query"];

/// Sums of the times of all replies of a load within its measured time. Cheap to clone.
#[derive(Clone, Default)]
pub struct Times(Arc<Mutex<Sums>>);

#[derive(Default)]
struct Sums {
    replies: u64,
    database_ms: f64,
    total_ms: f64,
}

impl Times {
    /// Returns clients whose replies are added.
    pub fn of(&self, clients: Vec<Box<dyn Client>>) -> Vec<Box<dyn Client>> {
        let timed = |client| -> Box<dyn Client> { Box::new(Timed { client, times: self.clone() }) };
        clients.into_iter().map(timed).collect()
    }

    /// Adds the means to a sample, in µs: of the whole request, of PostgreSQL in it, and of the rest.
    pub fn note(&self, sample: &mut Sample) {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if sums.replies == 0 {
            return;
        }
        let mean_us = |ms: f64| ms * 1_000.0 / sums.replies as f64;
        let mut add = |name: &str, us| sample.extra.insert(name.to_owned(), us);
        add("server_total_us", mean_us(sums.total_ms));
        add("server_database_us", mean_us(sums.database_ms));
        add("server_own_us", mean_us(sums.total_ms - sums.database_ms));
    }

    fn add(&self, head: &[u8]) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, ms) in stages(head) {
            match stage {
                TOTAL => {
                    sums.total_ms += ms;
                    sums.replies += 1;
                }
                stage if DATABASE.contains(&stage) => sums.database_ms += ms,
                _ => {}
            }
        }
    }
}

/// The stages of a reply's head.
fn stages(head: &[u8]) -> impl Iterator<Item = (&str, f64)> {
    let lines = std::str::from_utf8(head).unwrap_or_default().lines();
    let value = lines.filter_map(|line| line.strip_prefix(HEADER)).next().unwrap_or_default();
    value.split(',').filter_map(|stage| {
        let (name, took) = stage.trim().split_once(";dur=")?;
        Some((name, took.parse().ok()?))
    })
}

/// A client whose replies are added.
struct Timed {
    client: Box<dyn Client>,
    times: Times,
}

impl Client for Timed {
    fn ask(&mut self, request: &mut Vec<u8>) {
        self.client.ask(request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        if reply.counts {
            self.times.add(reply.head);
        }
        self.client.hear(reply)
    }

    fn pause(&self) -> std::time::Duration {
        self.client.pause()
    }
}
