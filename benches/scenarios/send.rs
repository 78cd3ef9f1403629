//! What sending a message costs: spread over 1,000 conversations of 10 members, and all into one.
//!
//! The yardstick does the same transaction with as many connections of its own. The server has ten, tokens to check and JSON to
//! read; what it can win back is one transaction for many messages.

use std::time::Duration;

use catbird_bench_report::results::Who;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{EVERYBODY, Plan};
use crate::support::yardstick::Script;

pub const NAME: &str = "send";

/// Of each conversation, as the yardstick has it.
const MEMBERS: u32 = 10;
/// The variants: how many conversations, and what they are held against.
const VARIANTS: [(&str, u32, Script); 2] = [("spread", 1_000, Script::Send), ("hot", 1, Script::SendHot)];

pub fn time(plan: &Plan) -> Duration {
    plan.time(VARIANTS.len() as u32, &EVERYBODY)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    bench.stage.reset_yardstick().await?;
    for (variant, convos, script) in VARIANTS {
        let figure = Figure { scenario: NAME, variant, unit: "messages/s", note: "" };
        let convos = bench.stage.seed(convos, MEMBERS).await?;
        for turn in bench.plan.turns(&EVERYBODY) {
            let sample = match turn.who {
                Who::Yardstick => bench.yardstick(script, turn.connections).await?,
                server => bench.load(server, Sender::several(turn.connections, &convos)).await?,
            };
            bench.record(&figure, turn, sample)?;
        }
    }
    Ok(())
}
