//! P1, P2, P3 and P9 under concurrency, with real commits over HTTP: one winner per epoch, one dense order, and losers who can
//! rebase from what they are told. Every test runs against one advisory replica, one actor replica, three replicas on one
//! database, and a fleet of both kinds, and proves the invariants on the database afterwards.

mod support;

#[path = "race_conditions/epochs.rs"]
mod epochs;
#[path = "race_conditions/names.rs"]
mod names;

use support::cluster::database;
use support::fleet::{Fleet, Mode};

macro_rules! fleets {
    ($($fleet:ident: $modes:expr;)*) => { $(
        mod $fleet {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn test_concurrent_add_members_no_duplicate_epochs() {
                race(&$modes, names::concurrent_add_members).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn test_concurrent_send_and_read_unread_count_consistency() {
                race(&$modes, names::concurrent_send_and_read).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn test_message_sequence_numbers_sequential() {
                race(&$modes, names::sequence_numbers).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn test_out_of_order_commits_prevented() {
                race(&$modes, names::out_of_order_commits).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn test_mixed_operations_no_race_conditions() {
                race(&$modes, names::mixed_operations).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn sixty_four_commits_for_one_epoch_have_one_winner_fifty_times_in_a_row() {
                race(&$modes, epochs::sixty_four_for_one).await;
            }
        }
    )* };
}

fleets! {
    advisory: [Mode::Advisory];
    actors: [Mode::Actors];
    three_replicas: [Mode::Advisory, Mode::Advisory, Mode::Advisory];
    mixed_fleet: [Mode::Advisory, Mode::Actors, Mode::Actors];
}

/// Runs a race on a fresh database and proves the invariants on what it left.
async fn race(modes: &[Mode], race: impl AsyncFnOnce(&Fleet)) {
    let database = database().await;
    let fleet = Fleet::start(modes, &database.config, &database.url).await;
    race(&fleet).await;
    fleet.check().await;
}
