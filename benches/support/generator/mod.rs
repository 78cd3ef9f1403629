//! The load generator: clients that each hold one connection and ask again as soon as they are answered (a closed loop).
//!
//! It shares the machine with what it measures, so it is one thread around one epoll, without tasks, locks or allocation per
//! request. What it uses of its core is measured with every sample (`client_cpu_share`): far below 1, it waited for the
//! server and not the other way round. The scenario `generator` shows what it can do when nothing else is the limit.
//!
//! Several loads may run beside each other, each with figures of its own.

mod connection;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use catbird_bench_report::results::Sample;
use mio::{Events, Poll};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tokio::sync::oneshot;

use self::connection::Connection;
use super::measurement::Latencies;
use super::{Failure, Result};

/// How long the last answers may take after a load has ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most of a failure's text that is kept.
const MAX_FAILURE_BYTES: usize = 500;

/// One client on one connection. Everything that it takes to make a request or to understand an answer is its own.
pub trait Client: Send {
    /// Appends the next request, head and body.
    fn ask(&mut self, request: &mut Vec<u8>);

    /// What the answer means.
    fn hear(&mut self, reply: &Reply<'_>) -> Verdict;

    /// How long after one request was sent the next one is, unless its answer takes longer. None: right after the answer.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// The answer to the last request.
pub struct Reply<'a> {
    pub status: u16,
    pub body: &'a [u8],
    /// When the request was sent, and when its answer was there.
    pub asked: Instant,
    pub heard: Instant,
    /// Whether this falls in the measured time.
    pub counts: bool,
}

impl Reply<'_> {
    /// The verdict where nothing but a 200 is expected.
    pub fn must_be_ok(&self) -> Verdict {
        if self.status == 200 { Verdict::Accepted } else { Verdict::Failed }
    }
}

/// What an answer means to the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Expected, and not what was asked for, such as a lost race.
    Refused,
    Failed,
}

/// Clients and the servers that they ask, each of them one, by turns.
pub struct Load {
    pub servers: Vec<SocketAddr>,
    pub clients: Vec<Box<dyn Client>>,
}

/// How long a load runs.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Before anything counts.
    pub warm_up: Duration,
    pub measured: Duration,
}

/// What came of one load. Its sample has everything but the round.
pub struct Outcome {
    pub sample: Sample,
    /// How many were accepted, the measured time or not.
    pub accepted_ever: u64,
    /// What the first unexpected answer said.
    pub first_failure: Option<String>,
}

/// Runs loads beside each other on a thread of their own, and gives an outcome for each.
pub async fn run(loads: Vec<Load>, timing: Timing) -> Result<Vec<Outcome>> {
    let (done, outcome) = oneshot::channel();
    let thread = thread::Builder::new().name("generator".to_owned());
    // Nobody listens any more when the bench was interrupted.
    thread.spawn(move || drop(done.send(drive(loads, timing))))?;
    outcome.await.map_err(|_| "the load generator panicked")?
}

/// What is counted for one load.
struct Tally {
    latencies: Latencies,
    accepted: u64,
    accepted_ever: u64,
    refused: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn new() -> Self {
        Self { latencies: Latencies::new(), accepted: 0, accepted_ever: 0, refused: 0, failed: 0, first_failure: None }
    }

    /// Failures count whenever they happen, everything else in the measured time.
    fn count(&mut self, verdict: Verdict, reply: &Reply<'_>) {
        self.accepted_ever += u64::from(verdict == Verdict::Accepted);
        match verdict {
            Verdict::Failed => {
                let shown = &reply.body[..reply.body.len().min(MAX_FAILURE_BYTES)];
                self.fail(|| format!("{} {}", reply.status, String::from_utf8_lossy(shown)));
            }
            _ if !reply.counts => {}
            Verdict::Refused => self.refused += 1,
            Verdict::Accepted => {
                self.accepted += 1;
                self.latencies.add(reply.heard - reply.asked);
            }
        }
    }

    fn fail(&mut self, why: impl FnOnce() -> String) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(why);
    }

    fn outcome(self, timing: Timing, cpu: Duration, answers: u64) -> Outcome {
        let mut sample = Sample {
            rate: self.accepted as f64 / timing.measured.as_secs_f64(),
            refused: self.refused,
            failed: self.failed,
            client_cpu_share: cpu.as_secs_f64() / timing.measured.as_secs_f64(),
            ..self.latencies.sample()
        };
        if answers > 0 {
            sample.extra.insert("client_cpu_us".to_owned(), cpu.as_secs_f64() * 1e6 / answers as f64);
        }
        Outcome { sample, accepted_ever: self.accepted_ever, first_failure: self.first_failure }
    }
}

/// The measured time, and what this thread used of the processor meanwhile.
struct Window {
    from: Instant,
    until: Instant,
    cpu_before: Option<Duration>,
    cpu_after: Option<Duration>,
}

impl Window {
    fn holds(&self, moment: Instant) -> bool {
        (self.from..self.until).contains(&moment)
    }

    /// Reads the thread's processor time at either end. Called often, so the ends are met closely.
    fn watch(&mut self, now: Instant) -> Result<()> {
        if now >= self.from && self.cpu_before.is_none() {
            self.cpu_before = Some(thread_cpu()?);
        }
        if now >= self.until && self.cpu_after.is_none() {
            self.cpu_after = Some(thread_cpu()?);
        }
        Ok(())
    }
}

fn drive(loads: Vec<Load>, timing: Timing) -> Result<Vec<Outcome>> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1_024);
    let mut tallies: Vec<Tally> = loads.iter().map(|_| Tally::new()).collect();
    let mut connections = Vec::new();
    for (load, Load { servers, clients }) in loads.into_iter().enumerate() {
        for (client, server) in clients.into_iter().zip(servers.into_iter().cycle()) {
            connections.push(Connection::open(poll.registry(), connections.len(), server, load, client)?);
        }
    }
    let from = Instant::now() + timing.warm_up;
    let mut window = Window { from, until: from + timing.measured, cpu_before: None, cpu_after: None };
    for connection in &mut connections {
        connection.ask(&mut tallies)?;
    }
    // When a client that pauses asks next, the earliest first.
    let mut paused: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        window.watch(now)?;
        let asking = now < window.until;
        if !asking && !connections.iter().any(Connection::is_waiting) {
            break;
        }
        let limit = if asking { window.until } else { window.until + PATIENCE };
        if now >= limit {
            return Err(unanswered(&connections));
        }
        while let Some(&Reverse((due, connection))) = paused.peek()
            && due <= now
        {
            paused.pop();
            if asking {
                connections[connection].ask(&mut tallies)?;
            }
        }
        let limit = paused.peek().map_or(limit, |Reverse((due, _))| limit.min(*due));
        match poll.poll(&mut events, Some(limit.saturating_duration_since(now))) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            let connection = &mut connections[event.token().0];
            if connection.is_resting() || !connection.hear(&window, &mut tallies)? {
                continue;
            }
            let (now, due) = (Instant::now(), connection.next_request());
            if due <= now && now < window.until {
                connection.ask(&mut tallies)?;
            } else {
                connection.rest();
                paused.push(Reverse((due, event.token().0)));
            }
        }
    }
    window.watch(Instant::now())?;
    let cpu = window.cpu_after.zip(window.cpu_before).map_or(Duration::ZERO, |(after, before)| after - before);
    let answers = tallies.iter().map(|tally| tally.accepted + tally.refused).sum();
    Ok(tallies.into_iter().map(|tally| tally.outcome(timing, cpu, answers)).collect())
}

fn unanswered(connections: &[Connection]) -> Failure {
    let waiting = connections.iter().filter(|connection| connection.is_waiting()).count();
    format!("{waiting} requests were not answered within {} s", PATIENCE.as_secs()).into()
}

/// What this thread has used of the processor so far.
fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(us.unsigned_abs()))
}
