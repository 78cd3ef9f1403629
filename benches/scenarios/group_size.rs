//! The cost of a message by group size: 2, 100 and 10,000 members.
//!
//! Messages are spread over the same number of conversations for each size, so only the size differs.

use std::time::Duration;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{Plan, SERVERS};

pub const NAME: &str = "group_size";

/// The variants and their members.
const SIZES: [(&str, u32); 3] = [("2 members", 2), ("100 members", 100), ("10,000 members", 10_000)];

pub fn time(plan: &Plan) -> Duration {
    plan.time(SIZES.len() as u32, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let mut sizes = Vec::new();
    for (variant, members) in SIZES {
        sizes.push((variant, bench.stage.seed(bench.plan.size(32, 2), members).await?));
    }
    for turn in bench.plan.turns(&SERVERS) {
        for (variant, convos) in &sizes {
            let figure =
                Figure { scenario: NAME, variant, unit: "messages/s", note: "over 32 conversations of this size" };
            let sample = bench.load(turn.who, Sender::several(turn.connections, convos)).await?;
            bench.record(&figure, turn, sample)?;
        }
    }
    Ok(())
}
