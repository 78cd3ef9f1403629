//! The cost of a race for one epoch: 2, 8 and 64 members who commit in one conversation as fast as they can.
//!
//! A loser reads `serverEpoch` from the 409 and retries at once. Besides the accepted commits, the scenario counts
//! wasted attempts, and measures how long a loser waits until its own commit is accepted, in time and in commits of
//! others, and how evenly the accepted commits are spread (Jain's index: 1 if all racers win as often, and one over
//! their number if one of them always wins). Each commit adds a member, so the group grows during the race. Every load
//! has its own conversation, of the same initial size.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catbird_bench_report::results::Sample;
use serde::Deserialize;
use serde_json::json;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::measurement::Latencies;
use crate::support::mls::{self, Content};
use crate::support::plan::{Plan, SERVERS};
use crate::support::seed::{self, Convos};
use crate::support::tokens::Minter;

pub const NAME: &str = "race";

/// Numbers of racers, each on its own connection.
const RACERS: &[u32] = &[2, 8, 64];
const QUICK_RACERS: &[u32] = &[2, 8];
/// Members of each conversation: the maximum number of racers.
const MEMBERS: u32 = 64;

const FIGURE: Figure<'_> = Figure {
    scenario: NAME,
    variant: "one conversation",
    unit: "commits/s",
    note: "wasted attempts are those that lost, per accepted commit; a loser's wait, in time and in commits of others, is from \
           its first loss to its next win, or to the end of the load if it did not win again; Jain's index is 1 if all \
           racers win as often",
};
/// Names of figures of a race.
pub const JAIN: &str = "jain_index";
pub const LONGEST_WAIT: &str = "longest_wait_in_commits";

pub fn time(plan: &Plan) -> Duration {
    racing(plan).time(1, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let turns = racing(&bench.plan).turns(&SERVERS);
    let convos = bench.stage.seed(turns.len() as u32, MEMBERS).await?;
    for (convo, turn) in turns.into_iter().enumerate() {
        let (racers, fates) = racers(turn.connections, &convos, convo);
        let mut sample = bench.load(turn.who, racers).await?;
        fates.note(&mut sample, bench.plan.timing.measured);
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}

/// Returns this many members who race in a conversation at epoch 0, and their results.
pub(super) fn racers(count: u32, convos: &Convos, convo: usize) -> (Vec<Box<dyn Client>>, Shared) {
    let fates = Shared(Arc::new(Mutex::new(Fates::new(count))));
    let racer = |member| -> Box<dyn Client> {
        let (convos, fates) = (convos.clone(), fates.clone());
        Box::new(Racer { convos, convo, member, epoch: 0, minter: Minter::new(), fates })
    };
    ((0..count as usize).map(racer).collect(), fates)
}

/// The results of the racers of one load. They take turns on one thread, so the lock is never contended.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Fates>>);

impl Shared {
    fn fates(&self) -> MutexGuard<'_, Fates> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the results to the sample of their load.
    pub fn note(&self, sample: &mut Sample, measured: Duration) {
        self.fates().note(sample, measured);
    }
}

/// Returns the plan with the racers as connections.
fn racing(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_RACERS } else { RACERS }, ..plan.clone() }
}

/// Results of the racers of one load.
struct Fates {
    /// Time of each racer's first loss since its last win.
    lost: Vec<Option<Instant>>,
    /// Number of commits that had been accepted by then.
    lost_after: Vec<u64>,
    accepted: u64,
    /// The longest wait so far, in commits of others.
    longest: u64,
    /// Number of wins of each in the measured time.
    wins: Vec<u64>,
    waits: Latencies,
    /// Time of the last reply in the measured time.
    end: Option<Instant>,
}

impl Fates {
    fn new(racers: u32) -> Self {
        let racers = racers as usize;
        Self {
            lost: vec![None; racers],
            lost_after: vec![0; racers],
            accepted: 0,
            longest: 0,
            wins: vec![0; racers],
            waits: Latencies::new(),
            end: None,
        }
    }

    fn won(&mut self, racer: usize, reply: &Reply<'_>) {
        let lost = self.lost[racer].take();
        if lost.is_some() {
            self.longest = self.longest.max(self.accepted - self.lost_after[racer]);
        }
        self.accepted += 1;
        if reply.counts {
            self.wins[racer] += 1;
            self.end = Some(reply.heard);
            if let Some(lost) = lost {
                self.waits.add(reply.heard - lost);
            }
        }
    }

    fn lost(&mut self, racer: usize, reply: &Reply<'_>) {
        if self.lost[racer].is_none() {
            (self.lost[racer], self.lost_after[racer]) = (Some(reply.heard), self.accepted);
        }
        if reply.counts {
            self.end = Some(reply.heard);
        }
    }

    /// Adds the results of all racers. A racer that still waits counts with its wait so far; otherwise the figure would
    /// be best if only one racer ever wins.
    fn note(&self, sample: &mut Sample, measured: Duration) {
        let mut waits = self.waits.clone();
        for lost in self.lost.iter().flatten() {
            if let Some(so_far) = self.end.and_then(|end| end.checked_duration_since(*lost)) {
                waits.add(so_far);
            }
        }
        let mut add = |name: &str, figure| sample.extra.insert(name.to_owned(), figure);
        let unfinished = self.lost.iter().zip(&self.lost_after).filter(|(lost, _)| lost.is_some());
        let longest = unfinished.map(|(_, after)| self.accepted - after).max().unwrap_or(0).max(self.longest);
        add(LONGEST_WAIT, longest as f64);
        let [sum, squares] = [1, 2].map(|power| self.wins.iter().map(|wins| (*wins as f64).powi(power)).sum::<f64>());
        if squares > 0.0 {
            add(JAIN, sum * sum / (squares * self.wins.len() as f64));
        }
        add("racers_who_never_won", self.wins.iter().filter(|wins| **wins == 0).count() as f64);
        if waits.count() > 0 {
            add("loser_wait_p50_ms", waits.quantile_us(0.5) / 1_000.0);
            add("loser_wait_p99_ms", waits.quantile_us(0.99) / 1_000.0);
        }
        let accepted = sample.rate * measured.as_secs_f64();
        if accepted > 0.0 {
            let wasted = sample.refused as f64 / accepted;
            sample.extra.insert("wasted_attempts_per_commit".to_owned(), wasted);
        }
    }
}

/// A member who commits in the newest epoch that it knows.
struct Racer {
    convos: Convos,
    convo: usize,
    member: usize,
    epoch: u64,
    minter: Minter,
    fates: Shared,
}

/// The part of an error that a loser needs.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    error: &'a str,
    server_epoch: Option<u64>,
}

impl Client for Racer {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let convo = &self.convos[self.convo];
        let commit = mls::private_message(&convo.group_id, self.epoch, Content::Commit);
        let body = json!({
            "convoId": convo.id,
            "didList": [seed::person()],
            "commit": {"$bytes": STANDARD_NO_PAD.encode(commit)},
        });
        Request::procedure("addMembers", &body).render(&mut self.minter, &convo.members[self.member], request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        let mut fates = self.fates.fates();
        match reply.status {
            200 => {
                self.epoch += 1;
                fates.won(self.member, reply);
                Verdict::Accepted
            }
            409 => match serde_json::from_slice(reply.body) {
                Ok(Refusal { error: "EpochMismatch", server_epoch: Some(epoch) }) => {
                    self.epoch = epoch;
                    fates.lost(self.member, reply);
                    Verdict::Refused
                }
                _ => Verdict::Failed,
            },
            _ => Verdict::Failed,
        }
    }
}
