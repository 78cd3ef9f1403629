//! P1 to P9 and P14 for the whole life of a group: random schedules of all methods that change one, beside a model of it.
//!
//! Two replicas with different serializers serve the conversation. Requests are repeated, their replies are lost, replicas are
//! killed and connections to PostgreSQL are cut. After each step both serve what the model says: roster, epoch, log,
//! GroupInfo and Welcomes, to members and to those that are none. At the end all clients share one epoch authenticator.
//!
//! `LIFE_CASES` is the number of schedules and `PROPTEST_RNG_SEED` repeats those of an earlier run. A failure is reduced to a
//! short schedule.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod agreement;
mod groups;
mod model;
mod people;
mod schedule;
mod servers;
mod steps;
mod world;

use std::cell::RefCell;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use schedule::{Action, Fault, Step, steps};
use servers::Servers;
use world::World;

/// Schedules of a usual run, and steps of each at most.
const CASES: u32 = 6;
const STEPS: usize = 40;
/// Attempts to reduce a schedule that fails.
const MAX_REDUCTIONS: u32 = 150;

#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
fn cases() -> u32 {
    std::env::var("LIFE_CASES").map_or(CASES, |text| text.parse().expect("LIFE_CASES is a whole number"))
}

#[test]
fn a_person_named_in_the_middle_of_an_epoch_is_served_nothing_from_before() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let step = |action| Step { action, fault: Fault::None, replica: 0 };
    let steps = [Action::Propose(0, 0), Action::Name(0, 0), Action::Rotate(0), Action::CatchUp(0)].map(step);
    runtime.block_on(async {
        let mut servers = Servers::start().await;
        World::begin(&mut servers).await.live(&steps).await;
        servers.check().await;
    });
}

#[test]
fn a_group_is_served_as_its_model_says_after_each_step_of_random_schedules() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let servers = RefCell::new(runtime.block_on(Servers::start()));
    let config = Config { failure_persistence: None, max_shrink_iters: MAX_REDUCTIONS, ..Config::with_cases(cases()) };
    let outcome = TestRunner::new(config).run(&prop::collection::vec(steps(), STEPS / 2..STEPS), |steps| {
        let mut servers = servers.borrow_mut();
        runtime.block_on(async {
            servers.revive().await;
            World::begin(&mut servers).await.live(&steps).await;
            servers.check().await;
        });
        Ok(())
    });
    let servers = servers.into_inner();
    println!("{}", servers.tally());
    runtime.block_on(async { drop(servers) });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
