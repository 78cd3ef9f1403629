//! The cost of a race for one epoch: 2, 8 and 64 members who commit in one conversation as fast as they can.
//!
//! A loser reads `serverEpoch` from the 409 and retries at once. Besides the accepted commits, the scenario counts
//! wasted attempts, and measures how long a loser waits until its own commit is accepted. Each commit adds a member, so
//! the group grows during the race. Every load has its own conversation, of the same initial size.

use std::sync::{Arc, Mutex, PoisonError};
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
    note: "wasted attempts are those that lost, per accepted commit; a loser's wait is from its first loss to its next win, \
           or to the end of the load if it did not win again",
};

pub fn time(plan: &Plan) -> Duration {
    racing(plan).time(1, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let turns = racing(&bench.plan).turns(&SERVERS);
    let convos = bench.stage.seed(turns.len() as u32, MEMBERS).await?;
    for (convo, turn) in turns.into_iter().enumerate() {
        let fates = Arc::new(Mutex::new(Fates::new(turn.connections)));
        let racers = with_fates(turn.connections, &convos, convo, &fates);
        let mut sample = bench.load(turn.who, racers).await?;
        fates.lock().unwrap_or_else(PoisonError::into_inner).note(&mut sample, bench.plan.timing.measured);
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}

/// Returns this many members who race in a conversation at epoch 0.
pub(super) fn racers(count: u32, convos: &Convos, convo: usize) -> Vec<Box<dyn Client>> {
    with_fates(count, convos, convo, &Arc::new(Mutex::new(Fates::new(count))))
}

fn with_fates(count: u32, convos: &Convos, convo: usize, fates: &Arc<Mutex<Fates>>) -> Vec<Box<dyn Client>> {
    let racer = |member| -> Box<dyn Client> {
        let (convos, fates) = (convos.clone(), fates.clone());
        Box::new(Racer { convos, convo, member, epoch: 0, minter: Minter::new(), fates })
    };
    (0..count as usize).map(racer).collect()
}

/// Returns the plan with the racers as connections.
fn racing(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_RACERS } else { RACERS }, ..plan.clone() }
}

/// Results of the racers of one load.
struct Fates {
    /// Time of each racer's first loss since its last win.
    lost: Vec<Option<Instant>>,
    /// Number of wins of each in the measured time.
    wins: Vec<u64>,
    waits: Latencies,
    /// Time of the last reply in the measured time.
    end: Option<Instant>,
}

impl Fates {
    fn new(racers: u32) -> Self {
        let racers = racers as usize;
        Self { lost: vec![None; racers], wins: vec![0; racers], waits: Latencies::new(), end: None }
    }

    fn won(&mut self, racer: usize, reply: &Reply<'_>) {
        let lost = self.lost[racer].take();
        if reply.counts {
            self.wins[racer] += 1;
            self.end = Some(reply.heard);
            if let Some(lost) = lost {
                self.waits.add(reply.heard - lost);
            }
        }
    }

    fn lost(&mut self, racer: usize, reply: &Reply<'_>) {
        self.lost[racer].get_or_insert(reply.heard);
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
    /// Results of all racers. They take turns on one thread, so the lock is never contended.
    fates: Arc<Mutex<Fates>>,
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
        let mut fates = self.fates.lock().unwrap_or_else(PoisonError::into_inner);
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
