//! Tables and rows: dead rows, and work in the background that falls behind or fails.

use catbird_testkit::cluster::database;

use super::doctor;

/// Each statement brings about one state.
const HARM: &str = "
    alter table ended_groups set (autovacuum_enabled = false);
    insert into ended_groups (group_id_hash) select sha256(n::text::bytea) from generate_series(1, 12000) n;
    delete from ended_groups;
    insert into sweeps (job, started_at, last_finished_at) values ('events', now(), now() - interval '7 hours');
    insert into sweeps (job, started_at, last_finished_at) values ('messages', now(), now() - interval '7 hours');
    insert into set_aside (work, item, last_error, retry_at) values ('events', '5', 'a reason', now());
    insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, next_attempt_at)
    values ('e1', 'c', 'did:x:bob', 'm1', 1, 'example.com', now() - interval '1 hour');
    insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, state, last_error)
    values ('e2', 'c', 'did:x:bob', 'm2', 2, 'example.com', 'dead', 'no answer');
    insert into mailboxes (member_did, convo_id, provider, url, host, secret)
    values ('did:x:bob', '', 'webhook', 'https://example.com', 'example.com', 'secret');
    insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
    values ('c', 'group c', 'did:x:alice', 'suite', 0, 0);
    insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq) values ('c', 'did:x:alice', 0, 0, 0);
    update conversations set last_seq = 1 where id = 'c';
    insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, created_at, era)
    select 'c', 1, 'm1', 'did:x:alice', 'app', 0, 'hello', now() - interval '1 hour', era from fan_out";

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_and_unfinished_work_are_named() {
    let database = database().await;
    let client = database.connect().await;
    for statement in HARM.split(';') {
        client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    // PostgreSQL counts the dead rows of a session at its end at the latest. The entry is settled once no older transaction runs,
    // in any database of the cluster.
    drop(client);
    let client = database.connect().await;
    let start = std::time::Instant::now();
    let is_seen = "select pg_stat_get_dead_tuples('ended_groups'::regclass) >= 12000
                          and (select max(tx) from messages) < pg_snapshot_xmin(pg_current_snapshot())";
    while !client.query_one(is_seen, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(start.elapsed().as_secs() < 30, "PostgreSQL does not count, or a transaction stays open");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // This service keeps messages for ever, so their sweep is not late.
    let said = doctor(&database.url, &[("MESSAGE_TTL_DAYS", "0")]).await;
    for (subject, found) in [
        ("dead_rows", "ended_groups has 12000 dead rows and 0 others"),
        ("autovacuum_enabled", "autovacuum leaves ended_groups out"),
        ("sweeps", "the sweep events was last finished 7 hours ago"),
        ("set_aside", "the sweep events skips 1 items"),
        ("mailboxes", "an envelope has been due for 36"),
        ("mailboxes", "an entry of the log has waited for 36"),
        ("dead_envelopes", "1 envelopes were given up"),
        // Throw-away clusters have these.
        ("data_checksums", "data_checksums is off"),
        ("role", "is a superuser"),
    ] {
        said.names(subject, "weak", found);
    }
    assert_eq!((said.code, said.against().len()), (Some(1), 11), "with fsync and full_page_writes: {:#?}", said.report);
}
