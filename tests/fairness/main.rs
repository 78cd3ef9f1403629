//! Fair races: members who commit as fast as they can, and try again when they lose, all get their turn.
//!
//! A turn waits a moment for a member who has lost (`src/serializer/turns/race.rs`). Other tests would make all members too late, so these
//! are a target of their own and run one at a time.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod race;

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use tokio::sync::Mutex;

/// Held by the test that runs.
static RUNNING: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_keeps_trying_gets_a_turn_with_the_lock() {
    gets_a_turn(&[Mode::Advisory], race::IN_TURN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_keeps_trying_gets_a_turn_with_actors() {
    gets_a_turn(&[Mode::Actors], race::IN_TURN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_who_keeps_trying_wins_at_several_replicas() {
    gets_a_turn(&[Mode::Advisory; 2], race::SOME_TIME).await;
}

async fn gets_a_turn(modes: &[Mode], most: u64) {
    let _running = RUNNING.lock().await;
    let database = database().await;
    let fleet = Fleet::with(modes, &database.config, &database.url, &[("COMMITS_PER_MINUTE", "10000")]).await;
    race::everybody_gets_a_turn(&fleet, most).await;
    fleet.check().await;
}
