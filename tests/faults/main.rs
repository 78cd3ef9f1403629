//! P1 to P4, P10 and P11 under faults: replicas are killed, connections are cut at the worst moment, PostgreSQL
//! crashes, clients disconnect, locks are never released.
//!
//! Each test checks that its fault happened, that acknowledged requests are in the database exactly once and nothing
//! else is, and that the servers recover by themselves. Tests wait for conditions with a deadline; a slow test waits
//! for one of the server's own limits.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod blob_folder;
mod blob_memory;
mod blob_restarts;
mod blob_store;
mod blobs;
mod blocked;
mod bodies;
mod commit_reply;
mod connections;
mod delivery;
mod exhausted;
mod hang_ups;
mod incarnations;
mod killed_replica;
mod mailboxes;
mod pooler;
mod restarts;
mod sharing;
mod standby;
mod tools;
mod turns;

use catbird_testkit::fleet::Mode;

macro_rules! with_each_serializer {
    ($($module:ident::$test:ident,)*) => {
        mod advisory {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $module::$test(Mode::Advisory).await;
            })*
        }
        mod actors {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                $module::$test(Mode::Actors).await;
            })*
        }
    };
}

with_each_serializer! {
    blobs::p4_a_replica_killed_at_any_step_of_a_blob_loses_and_leaks_nothing,
    blocked::a_blocked_conversation_is_refused_in_time_and_starves_no_other,
    blocked::a_backend_that_has_stopped_is_answered_for_in_time,
    blocked::a_full_queue_refuses_at_once_and_loses_no_queued_request,
    blocked::a_member_removed_while_its_message_waits_cannot_send_it,
    commit_reply::a_lost_reply_to_commit_is_still_one_success,
    commit_reply::a_commit_that_never_arrived_is_made_again,
    commit_reply::a_reply_to_commit_that_never_comes_is_found_out,
    commit_reply::an_unconfirmed_request_is_told_how_to_find_out,
    commit_reply::a_commit_that_arrives_late_is_found_by_the_batch_that_was_sent_again,
    commit_reply::a_stalled_replica_loses_its_transaction_and_its_late_commit_does_nothing,
    connections::terminated_backends_lose_nothing,
    connections::cut_connections_lose_nothing,
    connections::a_connection_that_looks_alive_costs_one_request_and_no_other,
    connections::a_black_hole_is_answered_in_time_and_recovered_from,
    exhausted::a_database_without_room_refuses_writes_for_a_while_and_serves_reads,
    hang_ups::a_client_that_hangs_up_leaves_a_whole_mutation_or_none,
    incarnations::ids_that_come_again_after_a_crash_hide_nothing,
    incarnations::a_restored_dump_refuses_old_cursors_and_goes_on,
    killed_replica::a_replica_killed_inside_a_transaction_leaves_nothing_behind,
    killed_replica::replicas_killed_under_load_lose_nothing,
    pooler::everything_works_through_a_pooler_in_transaction_mode,
    pooler::reads_end_in_time_behind_a_pooler,
    restarts::restarts_of_postgres_lose_nothing,
    restarts::crashes_of_postgres_lose_nothing,
    restarts::connections_from_before_a_restart_cost_no_request,
    restarts::a_transaction_id_that_is_used_again_after_a_crash_is_no_success,
    sharing::of_commits_at_once_each_gets_its_own_answer,
    sharing::a_conversation_locked_elsewhere_holds_up_no_other_commit,
    sharing::a_key_package_in_concurrent_requests_is_used_by_one,
    sharing::commits_that_share_bring_everything_along,
    sharing::losers_of_one_epoch_are_answered_together,
    standby::a_standby_is_not_ready_until_it_is_promoted,
    standby::a_primary_that_is_set_to_read_only_is_left,
    standby::commits_that_wait_for_a_standby_take_no_more_connections_than_there_may_be,
    turns::replicas_that_write_one_conversation_take_turns_with_batches,
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_arrive_while_a_batch_waits_join_it() {
    turns::requests_that_arrive_while_a_batch_waits_join_it().await;
}
