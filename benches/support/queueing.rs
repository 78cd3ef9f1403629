//! Simulation of a closed network of queues: requests go round, from one station to the next one, and wait there for a
//! free core. It computes what a machine would carry that is not there.
//!
//! A station is a set of cores that serve one request each, in the order of arrival, for an exponentially distributed
//! time. The last station of a round is the disk of the write-ahead log: one flush at a time, and each takes all requests
//! along that wait for it (group commit).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::mix::Dice;

/// Resolution of the random numbers.
const SIDES: usize = 1 << 30;

/// A network. All times are in microseconds.
#[derive(Debug, Clone)]
pub struct Network {
    /// Number of cores of each station.
    pub cores: Vec<usize>,
    /// The stations that a request visits in turn, and its mean time on a core of each.
    pub route: Vec<(usize, f64)>,
    /// Time of a flush of the write-ahead log.
    pub flush_us: f64,
    /// Requests that go round.
    pub requests: usize,
}

/// The end of a visit or of a flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Visit { station: usize, step: usize },
    Flush,
}

/// A simulation in progress. Times are in nanoseconds.
struct Simulation<'a> {
    network: &'a Network,
    now: u64,
    ends: BinaryHeap<Reverse<(u64, u64, End)>>,
    /// Requests that wait at each station, as steps of the route, and its busy cores.
    waiting: Vec<VecDeque<usize>>,
    busy: Vec<usize>,
    to_flush: usize,
    flushing: usize,
    scheduled: u64,
    dice: Dice,
}

impl Network {
    /// Returns rounds per second, over this many of them after as many that do not count.
    pub fn rate(&self, rounds: u64) -> f64 {
        let stations = self.cores.len();
        let mut simulation = Simulation {
            network: self,
            now: 0,
            ends: BinaryHeap::new(),
            waiting: vec![VecDeque::new(); stations],
            busy: vec![0; stations],
            to_flush: 0,
            flushing: 0,
            scheduled: 0,
            dice: Dice::new(),
        };
        for _ in 0..self.requests {
            simulation.arrive(0);
        }
        simulation.advance(rounds);
        let begin = simulation.now;
        let counted = simulation.advance(rounds);
        counted as f64 * 1e9 / (simulation.now - begin) as f64
    }
}

impl Simulation<'_> {
    /// Runs until at least this many rounds have ended, and returns their number.
    fn advance(&mut self, rounds: u64) -> u64 {
        let mut ended = 0;
        while ended < rounds {
            let Some(Reverse((at, _, end))) = self.ends.pop() else { break };
            self.now = at;
            match end {
                End::Visit { station, step } => {
                    self.busy[station] -= 1;
                    if let Some(next) = self.waiting[station].pop_front() {
                        self.serve(station, next);
                    }
                    self.arrive(step + 1);
                }
                End::Flush => {
                    let done = std::mem::take(&mut self.flushing);
                    ended += done as u64;
                    (0..done).for_each(|_| self.arrive(0));
                    self.flush();
                }
            }
        }
        ended
    }

    /// A request comes to this step of its route.
    fn arrive(&mut self, step: usize) {
        match self.network.route.get(step) {
            Some(&(station, _)) if self.busy[station] < self.network.cores[station] => self.serve(station, step),
            Some(&(station, _)) => self.waiting[station].push_back(step),
            None => {
                self.to_flush += 1;
                self.flush();
            }
        }
    }

    fn serve(&mut self, station: usize, step: usize) {
        self.busy[station] += 1;
        // From 0 (exclusively) to 1.
        let share = (self.dice.throw(SIDES) + 1) as f64 / SIDES as f64;
        self.end_after(-share.ln() * self.network.route[step].1, End::Visit { station, step });
    }

    /// Begins a flush of everything that waits for one, unless one is in progress.
    fn flush(&mut self) {
        if self.flushing == 0 && self.to_flush > 0 {
            self.flushing = std::mem::take(&mut self.to_flush);
            self.end_after(self.network.flush_us, End::Flush);
        }
    }

    fn end_after(&mut self, us: f64, end: End) {
        self.scheduled += 1;
        // The number keeps events of the same time in their order.
        self.ends.push(Reverse((self.now + (us * 1_000.0) as u64, self.scheduled, end)));
    }
}
