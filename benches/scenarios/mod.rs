//! The scenarios, one file for each question.
//!
//! A scenario seeds its data, takes the plan's turns one by one, and records a sample for each. To add a scenario, add
//! a file here and a line in [`ALL`].

mod bodies;
mod clients;
mod commits;
mod cores;
mod cost;
mod events;
pub mod flat;
mod fleet;
mod generator;
mod group_size;
mod grown;
mod hot_and_cold;
mod neighbour;
pub mod race;
mod reads;
mod retention;
mod send;
mod tokens;
mod transfers;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::support::Result;
use crate::support::bench::Bench;
use crate::support::plan::Plan;

type Running<'a> = Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A scenario, one file of this directory.
pub struct Scenario {
    pub name: &'static str,
    pub run: for<'a> fn(&'a mut Bench) -> Running<'a>,
    /// Approximate time of its loads.
    pub time: fn(&Plan) -> Duration,
    /// A full run skips it unless it is named, because it takes long.
    pub only_by_name: bool,
}

const fn of(
    name: &'static str,
    run: for<'a> fn(&'a mut Bench) -> Running<'a>,
    time: fn(&Plan) -> Duration,
) -> Scenario {
    Scenario { name, run, time, only_by_name: false }
}

/// All scenarios in the order in which they run.
pub const ALL: [Scenario; 18] = [
    of(generator::NAME, |bench| Box::pin(generator::run(bench)), generator::time),
    of(send::NAME, |bench| Box::pin(send::run(bench)), send::time),
    of(group_size::NAME, |bench| Box::pin(group_size::run(bench)), group_size::time),
    of(commits::NAME, |bench| Box::pin(commits::run(bench)), commits::time),
    of(hot_and_cold::NAME, |bench| Box::pin(hot_and_cold::run(bench)), hot_and_cold::time),
    of(race::NAME, |bench| Box::pin(race::run(bench)), race::time),
    of(reads::NAME, |bench| Box::pin(reads::run(bench)), reads::time),
    of(flat::NAME, |bench| Box::pin(flat::run(bench)), flat::time),
    of(tokens::NAME, |bench| Box::pin(tokens::run(bench)), tokens::time),
    of(neighbour::NAME, |bench| Box::pin(neighbour::run(bench)), neighbour::time),
    of(fleet::NAME, |bench| Box::pin(fleet::run(bench)), fleet::time),
    of(events::NAME, |bench| Box::pin(events::run(bench)), events::time),
    of(bodies::NAME, |bench| Box::pin(bodies::run(bench)), bodies::time),
    of(cost::NAME, |bench| Box::pin(cost::run(bench)), cost::time),
    of(cores::NAME, |bench| Box::pin(cores::run(bench)), cores::time),
    Scenario { only_by_name: true, ..of(grown::NAME, |bench| Box::pin(grown::run(bench)), grown::time) },
    Scenario { only_by_name: true, ..of(transfers::NAME, |bench| Box::pin(transfers::run(bench)), transfers::time) },
    Scenario { only_by_name: true, ..of(retention::NAME, |bench| Box::pin(retention::run(bench)), retention::time) },
];
