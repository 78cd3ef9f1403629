//! The cost of an accepted message apart from latency: processor time of the server and of PostgreSQL, bytes of
//! write-ahead log, statements, and dead rows. Messages are spread over 1,000 conversations on 32 connections.
//!
//! The same for commits. Everything is counted over the whole load, including its warm-up, and divided by the messages or
//! commits that it appended.

use std::time::Duration;

use catbird_bench_report::results::Who;

use super::clients::Sender;
use super::commits::{committers, epochs};
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::meters::{Meters, prepare};
use crate::support::plan::{Plan, SUBJECTS};
use crate::support::yardstick::Script;

pub const NAME: &str = "cost";

const CONNECTIONS: &[u32] = &[32];
const QUICK_CONNECTIONS: &[u32] = &[8];
const CONVOS: u32 = 1_000;
const MEMBERS: u32 = 10;

const MESSAGES: Figure<'_> = Figure { scenario: NAME, variant: "spread", unit: "messages/s", note: "" };
const COMMITS: Figure<'_> =
    Figure { scenario: NAME, variant: "commits", unit: "commits/s", note: "a message is a commit here" };

pub fn time(plan: &Plan) -> Duration {
    costing(plan).time(2, &SUBJECTS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    let [sent_to, committed] =
        [bench.stage.seed(CONVOS, MEMBERS).await?, bench.stage.seed(bench.plan.size(CONVOS, 50), MEMBERS).await?];
    for who in SUBJECTS {
        prepare(&bench.stage.connect(who).await?).await?;
    }
    for turn in costing(&bench.plan).turns(&SUBJECTS) {
        let database = bench.stage.connect(turn.who).await?;
        let server = match turn.who {
            Who::Yardstick => None,
            server => Some(bench.stage.server(server)?.pid()),
        };
        for (figure, script) in [(&MESSAGES, Script::Send), (&COMMITS, Script::Commit)] {
            let before = Meters::read(&database, turn.who, server).await?;
            let mut sample = match (turn.who, script) {
                (Who::Yardstick, script) => bench.yardstick(script, turn.connections).await?,
                (server, Script::Commit) => {
                    let epochs = epochs(&database, &committed).await?;
                    bench.load(server, committers(turn.connections, &committed, &epochs)).await?
                }
                (server, _) => bench.load(server, Sender::several(turn.connections, &sent_to)).await?,
            };
            Meters::read(&database, turn.who, server).await?.since(&before, &mut sample);
            bench.record(figure, turn, sample)?;
        }
    }
    Ok(())
}

/// Returns the plan with the connections of this scenario.
fn costing(plan: &Plan) -> Plan {
    Plan { connections: if plan.quick { QUICK_CONNECTIONS } else { CONNECTIONS }, ..plan.clone() }
}
