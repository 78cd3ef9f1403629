//! The cost of advancing an epoch: addMembers with a commit, spread over 1,000 conversations.
//!
//! Every connection has its own conversations, so no commit loses a race. Each commit adds a new member, which the
//! yardstick's `commit` does not do.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use catbird_bench_report::results::Who;
use serde_json::json;
use tokio_postgres::Client as Database;

use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::{Client, Reply, Verdict};
use crate::support::http::Request;
use crate::support::mls::{self, Content};
use crate::support::plan::{Plan, SUBJECTS};
use crate::support::seed::{self, Convos};
use crate::support::tokens::Minter;
use crate::support::yardstick::Script;

pub const NAME: &str = "commits";

const CONVOS: u32 = 1_000;
const MEMBERS: u32 = 10;
const FIGURE: Figure<'_> = Figure { scenario: NAME, variant: "spread", unit: "commits/s", note: "" };

pub fn time(plan: &Plan) -> Duration {
    plan.time(1, &SUBJECTS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    let convos = bench.stage.seed(CONVOS, MEMBERS).await?;
    for turn in bench.plan.turns(&SUBJECTS) {
        let sample = match turn.who {
            Who::Yardstick => bench.yardstick(Script::Commit, turn.connections).await?,
            server => {
                let epochs = epochs(&bench.stage.connect(server).await?, &convos).await?;
                bench.load(server, committers(turn.connections, &convos, &epochs)).await?
            }
        };
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}

/// Epochs of the conversations, by index.
pub(super) async fn epochs(database: &Database, convos: &Convos) -> Result<Vec<u64>> {
    let ids: Vec<&str> = convos.iter().map(|convo| convo.id.as_str()).collect();
    let rows = database
        .query(
            "select c.current_epoch from unnest($1::text[]) with ordinality i (id, place)
               join conversations c using (id) order by i.place",
            &[&ids],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get::<_, i64>(0).unsigned_abs()).collect())
}

/// Returns this many clients, each with its own conversations, which are at these epochs.
pub(super) fn committers(count: u32, convos: &Convos, epochs: &[u64]) -> Vec<Box<dyn Client>> {
    let share = |nth: usize| -> Vec<(usize, u64)> {
        epochs.iter().copied().enumerate().skip(nth).step_by(count as usize).collect()
    };
    let committer = |nth| -> Box<dyn Client> {
        Box::new(Committer { convos: convos.clone(), share: share(nth), turn: 0, minter: Minter::new() })
    };
    (0..count as usize).map(committer).collect()
}

/// Commits in its conversations in turn, as their creator.
struct Committer {
    convos: Convos,
    /// Indexes of its conversations, and their epochs.
    share: Vec<(usize, u64)>,
    /// Index of the next one.
    turn: usize,
    minter: Minter,
}

impl Client for Committer {
    fn ask(&mut self, request: &mut Vec<u8>) {
        let (convo, epoch) = self.share[self.turn];
        let convo = &self.convos[convo];
        let commit = mls::private_message(&convo.group_id, epoch, Content::Commit);
        let body = json!({
            "convoId": convo.id,
            "didList": [seed::person()],
            "commit": {"$bytes": STANDARD_NO_PAD.encode(commit)},
        });
        Request::procedure("addMembers", &body).render(&mut self.minter, &convo.members[0], request);
    }

    fn hear(&mut self, reply: &Reply<'_>) -> Verdict {
        let verdict = reply.must_be_ok();
        if verdict == Verdict::Accepted {
            self.share[self.turn].1 += 1;
        }
        self.turn = (self.turn + 1) % self.share.len();
        verdict
    }
}
