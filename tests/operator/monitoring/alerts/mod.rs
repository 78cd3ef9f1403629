//! Each alert is fired by a fault that is really made: Prometheus reads live servers with the rules of `ops/prometheus`, in which a
//! second stands for a minute, the entry of the alert in the runbook is followed, and the alert resolves. `ops/test --alerts` tries all
//! of them, or those whose names contain a word.

mod blobs;
mod case;
mod conversations;
mod delivery;
mod machine;
mod postgresql;
mod prometheus;
mod requests;
mod service;
mod tools;
mod uploads;

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;

use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::stream::{self, StreamExt};

use case::{Case, Row};

/// Scenarios at a time. Most of them wait.
const AT_ONCE: usize = 4;

/// An alert and a fault that fires it.
struct Scenario {
    alert: &'static str,
    fault: &'static str,
    play: fn(Case) -> LocalBoxFuture<'static, Row>,
}

macro_rules! scenarios {
    ($($alert:ident: $module:ident::$fault:ident;)*) => {
        &[$(Scenario {
            alert: stringify!($alert),
            fault: stringify!($fault),
            play: |mut case| Box::pin(async move {
                $module::$fault(&mut case).await;
                case.end()
            }),
        }),*]
    };
}

/// The scenarios. Those that take longest are first, so that the others run beside them.
const SCENARIOS: &[Scenario] = scenarios! {
    CatbirdVersionsDiffer: service::an_upgrade_is_not_finished;
    CatbirdTransactionIdsOld: postgresql::a_lock_keeps_vacuum_from_freezing;
    CatbirdBackgroundSetAside: postgresql::a_constraint_forbids_a_deletion;
    CatbirdMailboxesDead: delivery::mailboxes_refuse_until_the_last_attempt;
    CatbirdBackgroundBehind: postgresql::a_session_keeps_retention_from_its_passes;
    CatbirdErrorsContinue: requests::a_few_requests_fail_for_long;
    CatbirdActorsNearLimit: conversations::more_conversations_are_active_than_actors_may_run;
    CatbirdMetricsMissing: service::the_targets_are_misnamed;
    CatbirdReplicaDown: service::a_process_is_killed;
    CatbirdNotReady: service::postgres_is_stopped;
    CatbirdReplicaNotReady: service::one_replica_cannot_reach_postgres;
    CatbirdRestarts: service::a_process_is_killed_again_and_again;
    CatbirdTaskEnded: service::a_task_panics;
    CatbirdHighMemory: service::bodies_take_the_memory_of_a_small_container;
    CatbirdConnectionsNearLimit: service::idle_clients_keep_their_connections;
    CatbirdErrors: requests::the_disk_of_postgres_is_full;
    CatbirdInternalErrors: requests::a_trigger_of_an_operator_raises_an_error;
    CatbirdSlow: requests::each_insertion_takes_long;
    CatbirdPoolExhausted: requests::a_session_locks_a_table;
    CatbirdPoolBusy: requests::the_pool_is_too_small_for_the_load;
    CatbirdQueueFull: requests::the_lock_of_a_conversation_is_held_and_its_queue_fills;
    CatbirdQueueFull: requests::the_row_of_a_conversation_is_held_and_its_mailbox_fills;
    CatbirdMemoryRoomFull: requests::large_bodies_take_the_memory_for_all;
    CatbirdManyRefused: requests::a_caller_exceeds_the_rate_limit;
    CatbirdTokensRefused: requests::the_service_has_another_did_than_clients_name;
    CatbirdLockWait: conversations::a_session_holds_the_lock_of_a_conversation;
    CatbirdEpochConflicts: conversations::a_client_repeats_a_commit_of_an_old_epoch;
    CatbirdConversationsWedged: conversations::members_cannot_apply_a_commit;
    CatbirdActorsFail: conversations::an_actor_panics;
    CatbirdEventsLate: delivery::a_session_locks_what_the_tail_reads;
    CatbirdStreamsCut: delivery::clients_read_slower_than_events_happen;
    CatbirdStreamsNearLimit: service::there_are_many_streams;
    CatbirdNotificationsLost: delivery::redis_is_killed;
    CatbirdMailboxesBehind: delivery::a_session_keeps_envelopes_from_being_made;
    CatbirdBlobStoreFails: blobs::the_blob_store_is_down;
    CatbirdBlobsBehind: blobs::the_key_may_not_delete;
    CatbirdCommitsUnanswered: postgresql::the_synchronous_standby_is_lost;
    CatbirdTransactionOpen: postgresql::an_operator_forgets_a_transaction;
    CatbirdDatabaseSessionsNearLimit: postgresql::other_clients_use_up_the_sessions;
};

/// Plays scenarios, a few at a time, and prints a row for each. Panics if one failed.
async fn play(scenarios: impl Iterator<Item = &'static Scenario>) {
    let play = async |scenario: &'static Scenario| {
        let played = AssertUnwindSafe((scenario.play)(Case::new(scenario.alert))).catch_unwind().await;
        (scenario, played.ok())
    };
    let mut playing = stream::iter(scenarios).map(play).buffer_unordered(AT_ONCE).boxed_local();
    println!("{:<34}{:>7} s{:>10}{:>10} s  fault", "alert", "fired", "commands", "resolved");
    let mut failed = Vec::new();
    while let Some((Scenario { alert, fault, .. }, row)) = playing.next().await {
        let fault = fault.replace('_', " ");
        let Some(Row { fired, commands, resolved, also }) = row else {
            println!("{alert:<34}{:>9}{:>10}{:>12}  {fault}", "FAILED", "", "");
            failed.push(alert);
            continue;
        };
        let also = if also.is_empty() { String::new() } else { format!(" (also {})", also.join(", ")) };
        let (fired, resolved) = (fired.as_secs_f64(), resolved.as_secs_f64());
        println!("{alert:<34}{fired:>9.1}{commands:>10}{resolved:>12.1}  {fault}{also}");
    }
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn each_alert_has_a_scenario() {
    let text = std::fs::read_to_string(super::operations("prometheus/alerts.yml")).unwrap();
    let alerts: BTreeSet<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let tried: BTreeSet<&str> = SCENARIOS.iter().map(|scenario| scenario.alert).collect();
    assert_eq!(alerts, tried);
}

/// A quick scenario, which shows that the others can be played.
#[tokio::test(flavor = "multi_thread")]
async fn an_alert_fires_and_resolves_when_its_entry_in_the_runbook_is_followed() {
    play(SCENARIOS.iter().filter(|scenario| scenario.alert == "CatbirdReplicaDown")).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run it by name"]
#[expect(clippy::disallowed_methods, reason = "this setting is of the test, not of the server")]
async fn each_alert_is_fired_by_a_real_fault_and_its_entry_in_the_runbook_is_followed() {
    let word = std::env::var("ALERTS").unwrap_or_default();
    play(SCENARIOS.iter().filter(|scenario| scenario.alert.contains(&word))).await;
}
