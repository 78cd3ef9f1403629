//! Limit of the load generator: the requests of `send`, including tokens, answered by a responder that does no work.
//!
//! A server's figure near this one describes the generator and not the server. The responder shares the machine too, so
//! on an idle machine this is a lower bound.

use std::time::Duration;

use catbird_bench_report::results::Who;

use super::clients::Sender;
use crate::support::Result;
use crate::support::bench::{Bench, Figure};
use crate::support::generator::Load;
use crate::support::plan::Plan;
use crate::support::responder::Responder;
use crate::support::seed;

pub const NAME: &str = "generator";
const WHO: [Who; 1] = [Who::Generator];

const FIGURE: Figure<'_> =
    Figure { scenario: NAME, variant: "send", unit: "requests/s", note: "answered by a responder that does no work" };

pub fn time(plan: &Plan) -> Duration {
    plan.time(1, &WHO)
}

pub async fn run(bench: &mut Bench) -> Result<()> {
    let convos = seed::convos(1_000, 10);
    let responder = Responder::start()?;
    for turn in bench.plan.turns(&WHO) {
        let clients = Sender::several(turn.connections, &convos);
        let [sample] = bench.loads([Load { servers: vec![responder.address], clients }]).await?;
        bench.record(&FIGURE, turn, sample)?;
    }
    Ok(())
}
