//! The cost of sending a message: spread over 1,000 conversations of 10 members, and all into one.
//!
//! The yardstick runs the same transaction with as many connections. The server has ten connections, verifies tokens
//! and parses JSON; it gains from one transaction for many messages.

use std::time::Duration;

use catbird_bench_report::results::Who;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{Plan, SERVERS, SUBJECTS};
use crate::support::yardstick::Script;

pub const NAME: &str = "send";

/// Members of each conversation, as in the yardstick.
const MEMBERS: u32 = 10;
/// The variants: number of conversations, and the script of the yardstick.
const VARIANTS: [(&str, u32, Script); 2] = [("spread", 1_000, Script::Send), ("hot", 1, Script::SendHot)];

pub fn time(plan: &Plan) -> Duration {
    plan.time(VARIANTS.len() as u32, &SUBJECTS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    for (variant, convos, script) in VARIANTS {
        let figure = Figure { scenario: NAME, variant, unit: "messages/s", note: "" };
        let convos = bench.stage.seed(convos, MEMBERS).await?;
        for server in SERVERS {
            Sender::introduce(bench, server, &convos).await?;
        }
        for turn in bench.plan.turns(&SUBJECTS) {
            let sample = match turn.who {
                Who::Yardstick => bench.yardstick(script, turn.connections).await?,
                server => bench.load(server, Sender::several(turn.connections, &convos)).await?,
            };
            bench.record(&figure, turn, sample)?;
        }
    }
    Ok(())
}
