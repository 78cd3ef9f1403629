//! A soak: many members in many conversations send, join and leave without pause while everything between them and the log
//! dies, is cut, freezes and returns. Each member follows the stream; in the end its records are compared with the database,
//! entry by entry.
//!
//! The tests of every run last seconds. The long ones run by name, and print progress and a table at the end:
//! ```text
//! SOAK_SECONDS=600 cargo test --release --test faults soak::long -- --ignored --nocapture
//! ```
//! `long::disasters` kills PostgreSQL, replaces it by a standby, and restores it from a dump
//! (`tests/faults/delivery/disasters.rs`). `SOAK_SECONDS` (60), `SOAK_MEMBERS` (200), `SOAK_CONVERSATIONS` (50) and
//! `SOAK_ROSTER` (10, initial members of each conversation) set duration and size.

pub mod cast;
mod faults;
mod stage;
mod traffic;
mod verdict;

use std::time::Duration;

use stage::Stage;

/// Size of a soak.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub lasts: Duration,
    pub members: usize,
    pub conversations: usize,
    /// Initial members of each conversation.
    pub roster: usize,
    /// Pause between two faults.
    pub pace: Duration,
}

/// Size of the runs in every test.
const SHORT: Size =
    Size { lasts: Duration::from_secs(9), members: 24, conversations: 6, roster: 6, pace: Duration::from_millis(700) };

/// Reads the size from the environment.
pub fn long() -> Size {
    let lasts = Duration::from_secs(setting("SOAK_SECONDS", 60) as u64);
    let size = Size {
        lasts,
        members: setting("SOAK_MEMBERS", 200),
        conversations: setting("SOAK_CONVERSATIONS", 50),
        roster: setting("SOAK_ROSTER", 10),
        pace: Duration::from_secs(2),
    };
    assert!(size.roster > 1 && size.members > size.roster && size.conversations > 0, "no member can join: {size:?}");
    size
}

#[expect(clippy::disallowed_methods, reason = "these settings are of the tests, not of the server")]
fn setting(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a whole number")),
        Err(_) => default,
    }
}

/// Runs a soak to the end, prints the table, and panics if a client missed anything.
async fn soak(size: Size, replicas: usize, redis: bool) {
    let mut stage = Stage::set(size, replicas, redis).await;
    let begin = tokio::time::Instant::now();
    let faults = faults::of(replicas, redis);
    let mut told = begin;
    // Each fault at least once, however slow the machine is.
    for n in 0.. {
        if n >= faults.len() && begin.elapsed() >= size.lasts {
            break;
        }
        tokio::time::sleep(size.pace).await;
        stage.still_runs();
        faults::commit(&mut stage, faults[n % faults.len()]).await;
        if told.elapsed() >= Duration::from_secs(5) {
            told = tokio::time::Instant::now();
            println!("  {:>4} s: {}", begin.elapsed().as_secs(), stage.progress());
        }
    }
    stage.heal().await;
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_all_members_see_all_events_while_three_replicas_and_redis_die() {
    soak(SHORT, 3, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_all_members_see_all_events_of_one_replica_without_redis() {
    soak(SHORT, 1, false).await;
}

/// Run by name; see the module documentation.
mod long {
    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes minutes; run it by name"]
    async fn three_replicas() {
        super::soak(super::long(), 3, true).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes minutes; run it by name"]
    async fn one_replica() {
        super::soak(super::long(), 1, false).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "takes minutes; run it by name"]
    async fn disasters() {
        crate::delivery::disasters::soak(super::long()).await;
    }
}
