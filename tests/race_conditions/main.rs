//! P1, P2, P3, P9 and P14 under concurrency, with real commits over HTTP: one winner per epoch, one dense order, and losers
//! that can rebase from their refusal. Every test runs with one advisory replica, one actor replica, three replicas on
//! one database, and a mixed fleet, while a transaction stays open, and checks the invariants afterwards.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod epochs;
mod group_infos;
mod kinds;
mod names;
mod storm;
mod talkers;

use catbird_client::xrpc;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode, Replica};

/// One crowd of clients at a time: several wait longer for two cores than a request may wait.
static CROWDS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

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
            async fn sixty_four_commits_for_one_epoch_have_one_winner() {
                let _alone = CROWDS.lock().await;
                race(&$modes, epochs::sixty_four_for_one).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn sixty_four_commits_of_all_kinds_have_one_winner() {
                let _alone = CROWDS.lock().await;
                race(&$modes, kinds::sixty_four_of_all_kinds).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn p14_a_served_group_info_is_of_the_present_epoch() {
                race(&$modes, group_infos::served_while_epochs_end).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn p13_fifty_members_that_lost_their_state_come_back_within_the_budget() {
    let _alone = CROWDS.lock().await;
    storm::fifty_come_back().await;
}

/// Epochs of a race: `RACE_EPOCHS`, or as many as usual.
#[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
fn epochs(usual: u64) -> u64 {
    std::env::var("RACE_EPOCHS").map_or(usual, |text| text.parse().expect("RACE_EPOCHS is a whole number"))
}

/// Any number of external commits, and two members are a quorum that makes a conversation wedged.
const SETTINGS: [(&str, &str); 2] = [("EXTERNAL_COMMIT_SECONDS", "0"), ("WEDGED_QUORUM_PERCENT", "1")];

/// Runs a race on a fresh database and checks the invariants afterwards. An open transaction keeps dead rows from being
/// removed meanwhile.
async fn race(modes: &[Mode], race: impl AsyncFnOnce(&Fleet)) {
    const BEGIN: &str =
        "begin isolation level repeatable read; select pg_current_xact_id(); select count(*) from conversations";
    let database = database().await;
    let open = database.connect().await;
    open.batch_execute(BEGIN).await.unwrap();
    let fleet = Fleet::with(modes, &database.config, &database.url, &SETTINGS).await;
    race(&fleet).await;
    let began_with: i64 = open.query_one("select count(*) from conversations", &[]).await.unwrap().get(0);
    assert_eq!(began_with, 0, "the transaction did not stay open");
    open.batch_execute("commit").await.unwrap();
    fleet.check().await;
    if modes.iter().all(|mode| *mode == Mode::Advisory) {
        for replica in &fleet.replicas {
            nothing_was_rescued(replica).await;
        }
    }
}

/// Checks that the compare-and-swap under the lock decided every race. Unique keys and the trigger stop a second winner
/// too, and that writer then retries and gets the right answer, so without this check no race would notice a missing
/// compare-and-swap. (Replicas without locks need them.)
async fn nothing_was_rescued(replica: &Replica) {
    let page =
        xrpc::http().unwrap().get(format!("{}/metrics", replica.base)).send().await.unwrap().text().await.unwrap();
    let rescues = [
        "name=\"sendMessage\",cause=\"taken\"",
        "name=\"submitCommit\",cause=\"taken\"",
        "name=\"submitCommit.batch\",outcome=\"refused\"",
        "name=\"sendMessage.batch\",outcome=\"refused\"",
    ];
    let rescued: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("database_transaction") && rescues.iter().any(|rescue| line.contains(rescue)))
        .collect();
    assert!(rescued.is_empty(), "a constraint had to step in: {rescued:?}");
    assert!(page.contains("database_transactions_total{"), "the page has other names for it");
}
