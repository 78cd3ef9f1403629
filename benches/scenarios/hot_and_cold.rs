//! The effect of one hot conversation on others: messages to 1,000 cold ones on 8 connections, alone, beside an
//! increasing number of connections that write to a hot one, and beside as many that write to 1,000 others.
//!
//! The result is the p99 of the cold ones. The number of connections is that beside them. What a hot conversation costs
//! beyond what any further load costs is the difference between the last two.

use std::time::Duration;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::Load;
use crate::support::plan::{Plan, SERVERS};

pub const NAME: &str = "hot_and_cold";

const COLD_CONNECTIONS: u32 = 8;

const fn figure(variant: &'static str, note: &'static str) -> Figure<'static> {
    Figure { scenario: NAME, variant, unit: "messages/s", note }
}

const ALONE: Figure<'_> = figure("cold alone", "8 connections, before the hot ones start");
const BESIDE: Figure<'_> = figure("cold beside hot", "8 connections, beside those of the hot conversation");
const HOT: Figure<'_> = figure("hot beside cold", "beside 8 connections of the cold conversations");
const BESIDE_OTHERS: Figure<'_> =
    figure("cold beside others", "8 connections, beside those of 1,000 other conversations");
const OTHERS: Figure<'_> = figure("others beside cold", "beside 8 connections of the cold conversations");

pub fn time(plan: &Plan) -> Duration {
    plan.time(3, &SERVERS)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let cold = bench.stage.seed(1_000, 10).await?;
    let hot = bench.stage.seed(1, 10).await?;
    let others = bench.stage.seed(1_000, 10).await?;
    for server in SERVERS {
        Sender::introduce(bench, server, &cold).await?;
        Sender::introduce(bench, server, &others).await?;
    }
    for turn in bench.plan.turns(&SERVERS) {
        let alone = bench.load(turn.who, Sender::several(COLD_CONNECTIONS, &cold)).await?;
        bench.record(&ALONE, turn, alone)?;

        let server = bench.stage.address(turn.who)?;
        for (neighbours, figures) in [(&hot, [BESIDE, HOT]), (&others, [BESIDE_OTHERS, OTHERS])] {
            let loads = [(COLD_CONNECTIONS, &cold), (turn.connections, neighbours)].map(|(connections, convos)| Load {
                servers: vec![server],
                clients: Sender::several(connections, convos),
            });
            let samples = bench.loads(loads).await?;
            for (figure, sample) in figures.iter().zip(samples) {
                bench.record(figure, turn, sample)?;
            }
        }
    }
    Ok(())
}
