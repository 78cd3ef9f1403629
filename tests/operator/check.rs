//! `catbird-server check`: a sound database passes, and each violated invariant is reported with exit code 1. If a
//! constraint or trigger prevents a violation, the test shows that first and then removes it.

use catbird_testkit::cluster::{OwnCluster, TestDatabase, database, empty_database};
use catbird_testkit::fleet::{Fleet, Mode, run, run_as};

/// A conversation of three with two commits and two messages, and a second one, as the server would write them.
const SOUND: &str = "
    insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
    values ('c', 'group c', 'did:x:alice', 'suite', 0, 0), ('d', 'group d', 'did:x:alice', 'suite', 0, 0);
    insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
    values ('c', 'did:x:alice', 0, 0, 0), ('c', 'did:x:bob', 0, 0, 0), ('d', 'did:x:alice', 0, 0, 0);
    update conversations set current_epoch = 1, last_seq = 1 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
    values ('c', 1, 'm1', 'did:x:alice', 'commit', 1, 'commit 1', 'hash 1');
    insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq) values ('c', 'did:x:carol', 1, 1, 1);
    insert into key_packages (hash, init_key_hash, owner_did, cipher_suite, key_package, last_resort, expires_at, consumed_at, consumed_convo)
    values ('kp', 'init key', 'did:x:carol', 'suite', null, false, now(), now(), 'c');
    insert into welcomes (id, welcome) values ('w', 'welcome');
    insert into welcome_messages (id, convo_id, recipient_did, key_package_hash, welcome_id, epoch)
    values ('w1', 'c', 'did:x:carol', 'kp', 'w', 1);
    update conversations set last_seq = 2 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
    values ('c', 2, 'm2', 'did:x:bob', 'app', 1, 'hello');
    insert into idempotency_records (caller_did, method, key, fingerprint, reply)
    values ('did:x:bob', 'sendMessage', 'key', '', '{\"id\": \"m2\"}');
    update conversations set current_epoch = 2, last_seq = 3 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
    values ('c', 3, 'm3', 'did:x:alice', 'commit', 2, 'commit 2', 'hash 2');
    update conversations set last_seq = 4 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
    values ('c', 4, 'm4', 'did:x:bob', 'app', 2, 'hello');";

/// Appends one more entry to the log.
const ONE_MORE: &str = "update conversations set last_seq = last_seq + 1 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)";

/// Creates a sound database for a violation.
async fn sound() -> TestDatabase {
    let database = database().await;
    database.connect().await.batch_execute(SOUND).await.unwrap();
    database
}

/// Violates an invariant, and expects it to be reported together with others that the same rows violate. `guard` is the
/// constraint that prevents the violation, and the statement that removes it.
async fn named(violation: &str, guard: Option<(&str, &str)>, names: &[&str]) {
    let database = sound().await;
    let client = database.connect().await;
    if let Some((constraint, take_away)) = guard {
        let refused = client.batch_execute(violation).await.expect_err("the constraint keeps it out");
        assert_eq!(refused.as_db_error().and_then(|error| error.constraint()), Some(constraint), "{refused:?}");
        client.batch_execute(take_away).await.unwrap();
    }
    client.batch_execute(violation).await.unwrap();
    let (code, report, errors) = run("check", &database.url).await;
    assert_eq!((code, errors.as_str()), (Some(1), ""), "{report}");
    let violated: Vec<&str> = report
        .lines()
        .filter_map(|line| line.strip_prefix("VIOLATED  ")?.split_once(':').map(|(name, _)| name))
        .collect();
    assert_eq!(violated, names, "{report}");
    assert!(report.contains("conversation "), "each finding says where it is: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_database_passes() {
    let sound = sound().await;
    let (code, report, errors) = run("check", &sound.url).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{report}");
    assert_eq!(report.lines().filter(|line| line.starts_with("ok ")).count(), 21, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_settings_under_which_an_answer_may_be_lost_are_warned_of() {
    // Throw-away clusters have this setting; it is not a violation, since nothing is lost yet.
    let cluster = OwnCluster::start().await;
    let client = cluster.connect().await;
    client.batch_execute("alter database catbird set synchronous_commit = off").await.unwrap();
    let (code, report, errors) = run("check", &cluster.url()).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{report}");
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        assert!(report.contains(&format!("WARNING   {setting} is off")), "no {setting} in {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_checked_is_neither_sound_nor_unsound() {
    let empty = empty_database().await;
    let (code, report, errors) = run("check", &empty.url).await;
    assert_eq!((code, report.as_str()), (Some(2), ""), "{errors}");
    assert!(errors.contains("run `catbird-server migrate`"), "it says what is missing: {errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_creates_no_database() {
    let dir = std::env::temp_dir().join(format!("catbird-none-{}", ulid::Ulid::new()));
    let settings = [("DATA_DIR", dir.to_str().unwrap())];
    for command in [&["check"][..], &["envelopes"], &["admin", "suspensions"]] {
        let (code, report, errors) = run_as(command, "", &settings).await;
        assert_eq!((code, report.as_str()), (Some(2), ""), "{command:?}: {errors}");
        assert!(errors.contains("there is no database"), "{command:?}: {errors}");
    }
    assert!(!dir.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_server_writes_pass() {
    let database = database().await;
    let fleet = Fleet::start(&[Mode::Advisory, Mode::Actors], &database.config, &database.url).await;
    let mut members = fleet.conversation(3).await;
    members[0].send("hello").await.unwrap();
    let mut leaver = members.pop().unwrap();
    leaver.leave().await.unwrap();
    members[0].catch_up().await.unwrap();
    members[0].remove(leaver.did()).await.unwrap();
    let (code, report, _) = run("check", &database.url).await;
    assert_eq!(code, Some(0), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_commit_for_an_epoch_is_named() {
    let second = format!("{ONE_MORE} values ('c', 5, 'm5', 'did:x:bob', 'commit', 2, 'commit 2b', 'hash 2b')");
    let guard = ("messages_commit_epoch_key", "drop index messages_commit_epoch_key");
    named(&second, Some(guard), &["duplicate_epochs", "commit_order"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_goes_back_and_a_group_that_changes_are_refused() {
    let database = sound().await;
    let client = database.connect().await;
    let next = "generation = 2, group_id = 'next', last_seq = 5, group_seq = 5, initial_epoch = 7, current_epoch = 7";
    let refused = [
        "last_seq = 3",
        "current_epoch = 1, last_seq = 5",
        "current_epoch = 3",
        "current_epoch = 4, last_seq = 6",
        "group_id = 'other'",
        "initial_epoch = 1",
        "group_seq = 1",
        &next.replace("generation = 2", "generation = 3"),
        &next.replace("last_seq = 5", "last_seq = 6"),
        &next.replace("group_seq = 5", "group_seq = 4"),
        &next.replace("current_epoch = 7", "current_epoch = 8"),
        &next.replace("group_id = 'next'", "group_id = group_id"),
    ];
    for change in refused {
        let update = format!("update conversations set {change} where id = 'c'");
        let error = client.batch_execute(&update).await.expect_err(change);
        let constraint = error.as_db_error().and_then(|error| error.constraint());
        assert_eq!(constraint, Some("conversations_position_check"), "{change}: {error:?}");
    }
    client.batch_execute(&format!("update conversations set {next} where id = 'c'")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_without_a_commit_is_named() {
    let guard = ("conversations_position_check", "drop trigger conversations_position_check on conversations");
    named("update conversations set current_epoch = 3 where id = 'c'", Some(guard), &["missing_epochs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_info_of_an_epoch_that_does_not_exist_yet_is_named() {
    let of = |epoch: i64| {
        format!(
            "insert into group_infos (convo_id, epoch, group_info, signer_did) values ('c', {epoch}, 'bytes', 'did:x:alice')"
        )
    };
    named(&of(3), None, &["group_infos"]).await;
    let past = sound().await;
    past.connect().await.batch_execute(&of(1)).await.unwrap();
    assert_eq!(run("check", &past.url).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_out_of_order_are_named() {
    let guard = ("messages_commit_epoch_key", "drop index messages_commit_epoch_key");
    let swapped = "update messages set epoch = 3 - epoch where message_type = 'commit'";
    named(swapped, Some(guard), &["commit_order", "message_epochs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_from_an_epoch_to_come_is_named() {
    named("update messages set epoch = 2 where id = 'm2'", None, &["message_epochs"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_named() {
    let gap = "update conversations set last_seq = 6 where id = 'c';
        insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
        values ('c', 6, 'm6', 'did:x:bob', 'app', 2, 'hello')";
    let guard = ("messages_position_check", "drop trigger messages_position_check on messages");
    named(gap, Some(guard), &["sequence_gaps"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_beyond_the_position_is_named() {
    let beyond = "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
        values ('c', 5, 'm5', 'did:x:bob', 'app', 2, 'hello')";
    let guard = ("messages_position_check", "drop trigger messages_position_check on messages");
    named(beyond, Some(guard), &["generations", "sequence_gaps"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_entry_is_named() {
    named("delete from messages where id = 'm2'", None, &["sequence_gaps", "replies"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_entry_is_named() {
    let entry = format!("{ONE_MORE} values ('c', 5, 'm5', 'did:x:mallory', 'app', 2, 'hello', null)");
    named(&entry, None, &["strangers"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_without_a_conversation_are_named() {
    named("delete from conversations where id = 'd'", None, &["strangers"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_by_a_former_member_is_reported() {
    let left = "update members set left_at = now(), left_by = member_did, left_epoch = 1, left_seq = 1
        where convo_id = 'c' and member_did = 'did:x:bob'";
    named(left, None, &["late_entries"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_position_beyond_the_log_is_named() {
    named("update members set last_read_seq = 5 where convo_id = 'c'", None, &["positions"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joined_in_an_epoch_to_come_is_named() {
    named("update members set joined_epoch = 3 where member_did = 'did:x:carol'", None, &["positions"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_number_of_members_is_named() {
    named("update conversations set member_count = 2 where id = 'd'", None, &["member_counts"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_for_a_non_member_is_reported() {
    let orphan = "insert into welcome_messages (id, convo_id, recipient_did, welcome_id, epoch)
        values ('w2', 'c', 'did:x:mallory', 'w', 2)";
    let guard =
        ("welcome_messages_member_fkey", "alter table welcome_messages drop constraint welcome_messages_member_fkey");
    named(orphan, Some(guard), &["welcomes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_of_a_commit_that_lost_is_named() {
    let lost = "insert into welcome_messages (id, convo_id, recipient_did, welcome_id, epoch)
        values ('w2', 'c', 'did:x:bob', 'w', 3)";
    named(lost, None, &["welcomes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_that_no_member_waits_for_is_reported() {
    named("insert into welcomes (id, welcome) values ('w2', 'welcome')", None, &["welcomes"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_welcome_or_a_membership_of_a_device_that_is_not_registered_is_named() {
    named("update key_packages set device_id = 'phone' where hash = 'kp'", None, &["devices"]).await;
    let member =
        "insert into device_memberships (convo_id, owner_did, device_id, epoch) values ('c', 'did:x:bob', 'phone', 1)";
    named(member, None, &["devices"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_package_that_was_used_twice_is_named() {
    let twice = "insert into welcome_messages (id, convo_id, recipient_did, key_package_hash, welcome_id, epoch)
        values ('w2', 'd', 'did:x:alice', 'kp', 'w', 0)";
    named(twice, None, &["key_packages"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_package_that_was_used_elsewhere_is_named_unless_that_is_forgotten() {
    let used_in = |convo: &str| format!("update key_packages set consumed_convo = '{convo}' where hash = 'kp'");
    named(&used_in("d"), None, &["key_packages"]).await;
    let forgotten = sound().await;
    forgotten.connect().await.batch_execute(&used_in("")).await.unwrap();
    assert_eq!(run("check", &forgotten.url).await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_its_entry_is_reported() {
    let answers = "insert into idempotency_records (caller_did, method, key, fingerprint, reply)
        values ('did:x:bob', 'createConvo', 'other key', '', '{\"id\": \"nowhere\"}')";
    named(answers, None, &["replies"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_for_another_recipient_is_reported() {
    for (recipient, seq, message) in [("bob", 4, "m4"), ("mallory", 1, "m1"), ("alice", 4, "m4")] {
        let envelope = format!(
            "update members set left_at = now(), left_by = member_did, left_epoch = 2, left_seq = 3 where convo_id = 'c' and member_did = 'did:x:alice';
             insert into envelopes (id, convo_id, recipient_did, message_id, seq, host)
             values ('e', 'c', 'did:x:{recipient}', '{message}', {seq}, 'h')"
        );
        named(&envelope, None, &["envelopes"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_no_commit_or_by_a_stranger_is_named() {
    for (member, epoch) in [("mallory", 1), ("alice", 7)] {
        let report = format!(
            "insert into commit_reports (convo_id, generation, epoch, member_did, commit_hash, applied, is_newest)
             values ('c', 1, {epoch}, 'did:x:{member}', sha256('x'), false, true)"
        );
        named(&report, None, &["commit_reports"]).await;
    }
    for (convo, generation) in [("z", 1), ("c", 2)] {
        let wedged =
            format!("insert into wedged_convos (convo_id, generation, epoch) values ('{convo}', {generation}, 1)");
        named(&wedged, None, &["commit_reports"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_went_before_it_was_read_is_named() {
    let gone = "insert into log_starts values ('c', 3);
        delete from messages where convo_id = 'c' and seq = 2;
        update idempotency_records set created_at = now() - interval '1 day';
        insert into sweeps (job, cutoff, started_at) values ('messages', now(), now());
        with gone as (delete from messages where convo_id = 'c' and seq = 1 returning *)
        insert into retired_commits select convo_id, epoch, seq, sender_did, body_hash from gone";
    named(gone, None, &["unread_commits"]).await;
}
