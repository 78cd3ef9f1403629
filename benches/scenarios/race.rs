//! What it costs when everybody wants the same epoch: 2, 8 and 64 members who commit in one conversation as fast as they can.
//!
//! Who loses reads `serverEpoch` from the 409 and tries again at once. Beside the accepted commits it counts the attempts that
//! were in vain, and how long a loser waits until a commit of its own is accepted. Each commit adds somebody, so the group
//! grows while it is raced for; every load has a conversation of its own and begins with the same one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::Deserialize;
use serde_json::json;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::measurement::Latencies;
use crate::support::mls::{self, Content};
use crate::support::plan::{Plan, SERVERS};
use crate::support::results::Sample;
use crate::support::seed::{self, Convos};
use crate::support::tokens::Minter;

pub const NAME: &str = "race";

/// How many race, each on a connection of its own.
const RACERS: &[u32] = &[2, 8, 64];
const QUICK_RACERS: &[u32] = &[2, 8];
/// Of each conversation: as many as race in it at most.
const MEMBERS: u32 = 64;

const FIGURE: Figure<'_> = Figure {
    scenario: NAME,
    variant: "one conversation",
    unit: "commits/s",
    note: "wasted attempts are those that lost, per accepted commit; a loser's wait is from its first loss to its next win",
};

pub fn time(plan: &Plan) -> Duration {
    racing(plan).time(1, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let turns = racing(&bench.plan).turns(&SERVERS);
    let convos = bench.stage.seed(turns.len() as u32, MEMBERS).await?;
    for (convo, turn) in turns.into_iter().enumerate() {
        let waits = Arc::new(Mutex::new(Latencies::new()));
        let racer = |member| -> Box<dyn Client> {
            Box::new(Racer {
                convos: convos.clone(),
                convo,
                member,
                epoch: 0,
                lost: None,
                minter: Minter::new(),
                waits: waits.clone(),
            })
        };
        let racers = (0..turn.connections as usize).map(racer).collect();
        let mut sample = bench.load(turn.who, racers).await?;
        note(&mut sample, &waits.lock().unwrap_or_else(PoisonError::into_inner), bench.plan.timing.measured);
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}

/// The plan with racers for connections.
fn racing(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_RACERS } else { RACERS }, ..plan.clone() }
}

fn note(sample: &mut Sample, waits: &Latencies, measured: Duration) {
    let accepted = sample.rate * measured.as_secs_f64();
    if accepted > 0.0 {
        sample.extra.insert("wasted_attempts_per_commit".to_owned(), sample.refused as f64 / accepted);
    }
    if waits.count() > 0 {
        for (name, share) in [("loser_wait_p50_ms", 0.5), ("loser_wait_p99_ms", 0.99)] {
            sample.extra.insert(name.to_owned(), waits.quantile_us(share) / 1_000.0);
        }
    }
}

/// A member who commits in the newest epoch that it knows.
struct Racer {
    convos: Convos,
    convo: usize,
    member: usize,
    epoch: u64,
    /// When it lost, if it has not won since.
    lost: Option<Instant>,
    minter: Minter,
    /// Everybody's waits. Racers take turns on one thread, so nobody ever waits for this.
    waits: Arc<Mutex<Latencies>>,
}

/// The part of a refusal that a loser needs.
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
        match reply.status {
            200 => {
                self.epoch += 1;
                if let Some(lost) = self.lost.take().filter(|_| reply.counts) {
                    self.waits.lock().unwrap_or_else(PoisonError::into_inner).add(reply.heard - lost);
                }
                Verdict::Accepted
            }
            409 => match serde_json::from_slice(reply.body) {
                Ok(Refusal { error: "EpochMismatch", server_epoch: Some(epoch) }) => {
                    self.epoch = epoch;
                    self.lost.get_or_insert(reply.heard);
                    Verdict::Refused
                }
                _ => Verdict::Failed,
            },
            _ => Verdict::Failed,
        }
    }
}
