//! The load generator: clients with one connection each that send the next request as soon as they have a reply (a
//! closed loop).
//!
//! It shares the machine with the server, so it is one thread around one epoll, without tasks, locks or allocations per
//! request. Every sample has its share of a core (`client_cpu_share`). Far below 1, the generator waited for the server
//! and not the other way round. The scenario `generator` shows its own limit.
//!
//! Several loads may run concurrently, each with its own figures.

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

/// Maximum wait for the last replies after a load has ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum length of the text of a failure.
const MAX_FAILURE_BYTES: usize = 500;

/// One client on one connection. It owns everything that it needs to create a request and to interpret a reply.
pub trait Client: Send {
    /// Appends the next request, head and body.
    fn ask(&mut self, request: &mut Vec<u8>);

    /// Interprets the reply.
    fn hear(&mut self, reply: &Reply<'_>) -> Verdict;

    /// Interval between two requests, unless a reply takes longer. `None`: the next request follows the reply at once.
    fn pause(&self) -> Duration {
        Duration::ZERO
    }
}

/// The reply to the last request.
pub struct Reply<'a> {
    pub status: u16,
    /// Status line and headers.
    pub head: &'a [u8],
    pub body: &'a [u8],
    /// Time of the request, and time of its reply.
    pub asked: Instant,
    pub heard: Instant,
    /// Whether the reply is within the measured time.
    pub counts: bool,
}

impl Reply<'_> {
    /// The verdict if only a 200 is expected.
    pub fn must_be_ok(&self) -> Verdict {
        if self.status == 200 { Verdict::Accepted } else { Verdict::Failed }
    }
}

/// The scenario's verdict on a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted,
    /// Expected, but not a success, such as a lost race.
    Refused,
    Failed,
}

/// Clients and their servers. Clients are assigned to the servers in turn.
pub struct Load {
    pub servers: Vec<SocketAddr>,
    pub clients: Vec<Box<dyn Client>>,
}

/// Duration of a load.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Warm-up, which is not measured.
    pub warm_up: Duration,
    pub measured: Duration,
}

/// The outcome of one load. Its sample has everything but the round.
pub struct Outcome {
    pub sample: Sample,
    /// Number of accepted requests, including the warm-up.
    pub accepted_ever: u64,
    /// Text of the first unexpected reply.
    pub first_failure: Option<String>,
}

/// Runs loads concurrently on a thread of their own. Returns an outcome for each.
pub async fn run(loads: Vec<Load>, timing: Timing) -> Result<Vec<Outcome>> {
    let (done, outcome) = oneshot::channel();
    let thread = thread::Builder::new().name("generator".to_owned());
    // There is no receiver if the bench was interrupted.
    thread.spawn(move || drop(done.send(drive(loads, timing))))?;
    outcome.await.map_err(|_| "the load generator panicked")?
}

/// Counts of one load.
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

    /// Failures always count; everything else counts within the measured time.
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

/// The measured time, and the processor time of this thread within it.
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

    /// Reads the thread's processor time at both ends. It is called often, so the error is small.
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
    // Times at which pausing clients send their next requests, the earliest first.
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

/// Processor time of this thread.
fn thread_cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(us.unsigned_abs()))
}
