//! What is measured, one file per question.
//!
//! A scenario seeds what it needs, takes the plan's turns one by one, and records a sample for each. To add one: a file here
//! and a line in [`ALL`].

mod clients;
mod commits;
mod cost;
mod events;
mod fleet;
mod generator;
mod group_size;
mod hot_and_cold;
mod neighbour;
mod race;
mod reads;
mod send;
mod tokens;

// Where scenarios need one, it is that of the tests.
#[allow(dead_code, clippy::unwrap_used, reason = "support of the tests, which use all of it")]
#[path = "../../tests/support/redis.rs"]
mod redis;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::support::Result;
use crate::support::bench::Bench;
use crate::support::plan::Plan;

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// One file of this directory.
pub struct Scenario {
    pub name: &'static str,
    pub run: for<'a> fn(&'a mut Bench) -> Running<'a>,
    /// About how long its loads take.
    pub time: fn(&Plan) -> Duration,
}

/// In the order in which they run.
pub const ALL: [Scenario; 12] = [
    Scenario { name: generator::NAME, run: |bench| Box::pin(generator::run(bench)), time: generator::time },
    Scenario { name: send::NAME, run: |bench| Box::pin(send::run(bench)), time: send::time },
    Scenario { name: group_size::NAME, run: |bench| Box::pin(group_size::run(bench)), time: group_size::time },
    Scenario { name: commits::NAME, run: |bench| Box::pin(commits::run(bench)), time: commits::time },
    Scenario { name: hot_and_cold::NAME, run: |bench| Box::pin(hot_and_cold::run(bench)), time: hot_and_cold::time },
    Scenario { name: race::NAME, run: |bench| Box::pin(race::run(bench)), time: race::time },
    Scenario { name: reads::NAME, run: |bench| Box::pin(reads::run(bench)), time: reads::time },
    Scenario { name: tokens::NAME, run: |bench| Box::pin(tokens::run(bench)), time: tokens::time },
    Scenario { name: neighbour::NAME, run: |bench| Box::pin(neighbour::run(bench)), time: neighbour::time },
    Scenario { name: fleet::NAME, run: |bench| Box::pin(fleet::run(bench)), time: fleet::time },
    Scenario { name: events::NAME, run: |bench| Box::pin(events::run(bench)), time: events::time },
    Scenario { name: cost::NAME, run: |bench| Box::pin(cost::run(bench)), time: cost::time },
];
