//! The cost of a message by group size: 2, 100 and 10,000 members.
//!
//! Messages are spread over the same number of conversations for each size, from at most a hundred members of each, so
//! only the size differs. A further load comes from all 320,000 members of the largest ones: nearly every request is the
//! first of its sender, which costs a lookup of its DID document and one of its place in the roster.

use std::time::Duration;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::plan::{Plan, SERVERS};

pub const NAME: &str = "group_size";

/// The sizes, and the maximum number of members that send.
const SIZES: [u32; 3] = [2, 100, 10_000];
const SENDERS: usize = 100;
/// The variants: index of the size, and number of senders.
const VARIANTS: [(&str, usize, usize); 4] = [
    ("2 members", 0, SENDERS),
    ("100 members", 1, SENDERS),
    ("10,000 members", 2, SENDERS),
    ("10,000 members, all send", 2, usize::MAX),
];

pub fn time(plan: &Plan) -> Duration {
    plan.time(VARIANTS.len() as u32, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let mut sizes = Vec::new();
    for members in SIZES {
        sizes.push(bench.stage.seed(bench.plan.size(32, 2), members).await?);
    }
    for turn in bench.plan.turns(&SERVERS) {
        for (variant, size, senders) in VARIANTS {
            let note = "over 32 conversations of this size";
            let figure = Figure { scenario: NAME, variant, unit: "messages/s", note };
            let clients = Sender::of_some(turn.connections, &sizes[size], senders);
            let sample = bench.load(turn.who, clients).await?;
            bench.record(&figure, turn, sample)?;
        }
    }
    Ok(())
}
