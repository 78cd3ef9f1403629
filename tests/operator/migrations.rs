//! The schema: applied once, by whichever replica comes first; no request is served before; failures are reported; and
//! operators find the tables of the earlier server under their old names.

use std::time::Duration;

use catbird_client::xrpc::http;
use catbird_server::clock::Clock;
use catbird_server::store::required_version;
use catbird_testkit::cluster::{TestDatabase, database, empty_database};
use catbird_testkit::fleet::{Fleet, Mode, Replica, run};
use tokio::time::Instant;
use tokio_postgres::{Client, SimpleQueryMessage};

const DEADLINE: Duration = Duration::from_secs(30);

/// Returns the recorded versions in the order in which they were applied.
async fn applied(client: &Client) -> Vec<i64> {
    let history = "select version::bigint from refinery_schema_history order by applied_on::timestamptz, version";
    client.query(history, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

fn all_versions() -> Vec<i64> {
    (1..=required_version()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_that_start_at_once_on_an_empty_database_migrate_it_once() {
    let database = empty_database().await;
    let (one, other) = tokio::join!(
        Replica::start(Mode::Advisory, &database.url, &[]),
        Replica::start(Mode::Actors, &database.url, &[])
    );
    assert_eq!(applied(&database.connect().await).await, all_versions());
    drop((one, other));
    let (code, said, _) = run("migrate", &database.url).await;
    assert_eq!((code, said.as_str()), (Some(0), "0 migrations applied; the schema is up to date\n"));
}

/// Marks a token with this expiry as used, as every build does; returns whether it was unused.
const SPEND: &str = "insert into used_tokens (slot, token) select token_slot($1::timestamptz), $2::bytea
    on conflict do nothing returning slot";

#[tokio::test(flavor = "multi_thread")]
async fn used_tokens_stay_used_when_the_ring_of_slots_grows() {
    let database = database().await;
    let (client, earlier) = (database.connect().await, database.connect().await);
    // The state before the step.
    let slots: String = (8..16).map(|slot| format!("drop table used_tokens_{slot};")).collect();
    client.batch_execute(&slots).await.unwrap();
    client
        .batch_execute(
            "create or replace function token_slot(dies_at timestamptz) returns smallint language sql immutable as
             $$ select (ten_minutes(dies_at) % 8)::smallint $$",
        )
        .await
        .unwrap();
    let now = Clock::system().now();
    let dies = [-4, 1, 9].map(|minutes| now + chrono::TimeDelta::minutes(minutes));
    // A prepared plan, as a running replica has.
    let spend = earlier.prepare(SPEND).await.unwrap();
    for round in 0_u8..8 {
        for dies_at in &dies {
            let token = [dies_at.timestamp().to_be_bytes().as_slice(), &[round]].concat();
            assert_eq!(earlier.query(&spend, &[dies_at, &token]).await.unwrap().len(), 1);
        }
    }
    // Another client is using a token at this moment.
    let mut other = database.connect().await;
    let held = other.transaction().await.unwrap();
    held.query(SPEND, &[&dies[1], &b"held".as_slice()]).await.unwrap();
    let step = include_str!("../../sql/migrations/V025__hour_long_tokens.sql");
    let growing = async { client.batch_execute(&format!("begin; {step} commit")).await.unwrap() };
    let finishing = async {
        somebody_waits(&earlier, WAITS_FOR_A_LOCK).await;
        held.commit().await.unwrap();
    };
    tokio::join!(growing, finishing);
    for round in 0_u8..8 {
        for dies_at in &dies {
            let token = [dies_at.timestamp().to_be_bytes().as_slice(), &[round]].concat();
            assert_eq!(earlier.query(&spend, &[dies_at, &token]).await.unwrap().len(), 0, "used before");
        }
    }
    assert_eq!(earlier.query(&spend, &[&dies[1], &b"held".as_slice()]).await.unwrap().len(), 0);
    // The prepared plan uses the new ring.
    for minutes in [0, 20, 40, 60] {
        let dies_at = now + chrono::TimeDelta::minutes(minutes);
        let row = earlier.query_one(&spend, &[&dies_at, &b"new".as_slice()]).await.unwrap();
        assert_eq!(i64::from(row.get::<_, i16>(0)), dies_at.timestamp() / 600 % 16);
    }
}

/// Returns whether a backend waits for any lock in this database, and whether for an advisory one.
const WAITS_FOR_A_LOCK: &str =
    "select exists (select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')";
const WAITS_FOR_ITS_TURN: &str = "select exists (select from pg_locks where locktype = 'advisory' and not granted
    and database = (select oid from pg_database where datname = current_database()))";

async fn somebody_waits(client: &Client, waiting: &str) {
    let start = Instant::now();
    while !client.query_one(waiting, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(start.elapsed() < DEADLINE, "no backend waits: {waiting}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_not_ready_before_the_schema_is_there() {
    let database = empty_database().await;
    let client = database.connect().await;
    client.batch_execute("select pg_advisory_lock(hashtextextended('catbird-server/schema', 2))").await.unwrap();
    let replica = Replica::spawn(Mode::Advisory, &database.url, &[]).await;
    somebody_waits(&client, WAITS_FOR_ITS_TURN).await;

    let get = async |path: &str| http().unwrap().get(format!("{}{path}", replica.base)).send().await.unwrap();
    let ready = get("/health/ready").await;
    assert_eq!(ready.status(), 503);
    let ready: serde_json::Value = ready.json().await.unwrap();
    assert_eq!((&ready["ready"], ready["stage"].as_str()), (&false.into(), Some("starting")), "{ready}");
    assert_eq!((&ready["checks"]["database"], &ready["checks"]["schema"]), (&true.into(), &false.into()), "{ready}");
    assert_eq!(get("/health/live").await.status(), 200, "it runs, and must not be restarted");
    let refused = get("/xrpc/blue.catbird.mls.getConvos").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(client.query("select from pg_tables where tablename = 'messages'", &[]).await.unwrap().len(), 0);

    client.batch_execute("select pg_advisory_unlock(hashtextextended('catbird-server/schema', 2))").await.unwrap();
    replica.ready().await;
    assert_eq!(applied(&client).await, all_versions());
    let log = replica.log();
    assert!(log.iter().all(|line| !line.contains("ERROR")), "waiting for the schema is no error: {log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_database_has_lost_its_schema_is_not_ready() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let client = database.connect().await;
    let newest =
        "delete from refinery_schema_history where version = (select max(version) from refinery_schema_history)";
    client.batch_execute(newest).await.unwrap();
    let status = async || http().unwrap().get(format!("{}/health/ready", replica.base)).send().await.unwrap().status();
    let start = Instant::now();
    while status().await != 503 {
        // The result of a check is cached for a second.
        assert!(start.elapsed() < DEADLINE, "it goes on being ready");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Both `migrate` and `serve` fail, and report the reason.
async fn is_reported(database: &TestDatabase, why: &str) {
    for command in ["migrate", "serve"] {
        let (code, _, errors) = run(command, &database.url).await;
        assert_eq!(code, Some(2), "{command} went on: {errors}");
        assert!(errors.contains("migration") && errors.contains(why), "{command} does not say why: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_migration_that_was_edited_is_reported() {
    let database = database().await;
    let client = database.connect().await;
    client.batch_execute("update refinery_schema_history set checksum = '1' where version = 2").await.unwrap();
    is_reported(&database, "messages").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_is_reported_undone_and_can_be_repeated() {
    let database = empty_database().await;
    let client = database.connect().await;
    client.batch_execute("create table envelopes (mine text)").await.unwrap();
    is_reported(&database, "envelopes").await;
    let half = client.query("select from pg_tables where tablename in ('cursors', 'event_stream')", &[]).await.unwrap();
    assert_eq!(half.len(), 0, "the migration that failed left something behind");

    client.batch_execute("drop table envelopes").await.unwrap();
    let (code, said, errors) = run("migrate", &database.url).await;
    assert_eq!(code, Some(0), "{said}{errors}");
    assert_eq!(applied(&client).await, all_versions());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_starts_on_the_schema_of_a_newer_one_and_leaves_it_alone() {
    let database = database().await;
    let client = database.connect().await;
    // What a newer build leaves: its migration, and its views.
    client
        .batch_execute(
            "insert into refinery_schema_history (version, name, applied_on, checksum)
             select max(version) + 1, 'of_a_newer_build', max(applied_on), '1' from refinery_schema_history;
             alter view member_unread rename column unread_count to unread_entries;
             comment on schema legacy is 'of a newer build'",
        )
        .await
        .unwrap();
    let (code, said, errors) = run("migrate", &database.url).await;
    assert_eq!((code, said.as_str()), (Some(0), "0 migrations applied; the schema is up to date\n"), "{errors}");
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    client.batch_execute("select unread_entries from member_unread").await.unwrap();
    assert_eq!(replica.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rosters_of_earlier_builds_are_counted_and_go_on_being() {
    let database = database().await;
    let client = database.connect().await;
    let roster = "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
            select 'c' || n, 'g' || n, 'did:x:a', 'suite', 0, 0 from generate_series(0, 2) n;
        insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
            select 'c' || c, 'did:x:' || n, 0, 0, 0 from generate_series(0, 2) c, generate_series(1, c) n";
    let counts = async || -> Vec<(i64, i64)> {
        let counts = "select member_count, roster_version from conversations order by id";
        client.query(counts, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    };
    // State of a database before the last step.
    let before =
        "drop function count_gone cascade; drop function count_moved cascade; alter table members drop roster_version";
    client.batch_execute(&format!("{before}; {roster}")).await.unwrap();
    assert_eq!(counts().await, [(0, 0), (0, 0), (0, 0)]);
    let step = include_str!("../../sql/migrations/V013__roster_counts.sql");
    client.batch_execute(&format!("begin; {step}; commit")).await.unwrap();
    assert_eq!(counts().await, [(0, 0), (1, 0), (2, 0)]);
    // Builds that know V042 count by themselves. Its triggers count for the others.
    let step = include_str!("../../sql/migrations/V042__counted_members.sql");
    client.batch_execute(&format!("begin; {step}; commit")).await.unwrap();

    // Writes of builds that do not know the step: add several members, one of whom left; remove one; move a read
    // position.
    let leave = "update members set left_at = now(), left_by = member_did, left_epoch = 0, left_seq = 0";
    let add = "insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq)
            select convo, 'did:x:' || n, 0, 0, 0 from unnest('{c1,c2}'::text[]) convo, generate_series(1, 4) n
        on conflict (convo_id, member_did) do update set left_at = null, left_by = null, left_epoch = null, left_seq = null
            where members.left_at is not null";
    for (change, then) in [
        (format!("{leave} where convo_id = 'c2' and member_did = 'did:x:1'"), [(0, 0), (1, 0), (1, 1)]),
        (add.to_owned(), [(0, 0), (4, 3), (4, 4)]),
        ("update members set last_read_at = now()".to_owned(), [(0, 0), (4, 3), (4, 4)]),
        ("delete from members where member_did = 'did:x:2'".to_owned(), [(0, 0), (3, 4), (3, 5)]),
    ] {
        client.batch_execute(&change).await.unwrap();
        assert_eq!(counts().await, then, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mailboxes_of_earlier_builds_have_proved_themselves_if_they_ever_took_something() {
    let database = database().await;
    let client = database.connect().await;
    // State of a database before the step.
    let before = "drop trigger mailbox_begins_anew on mailboxes; drop function mailbox_begins_anew; drop table mailbox_challenges;
        alter table mailboxes drop state, drop reason, drop begun_at, drop challenges, drop challenge_at, drop failing_since, drop failed;
        insert into mailboxes (member_did, convo_id, provider, url, host, secret)
        select 'did:x:' || n, '', 'webhook', 'https://a.example/' || n, 'a.example', 'secret' from generate_series(1, 3) n;
        insert into mailboxes (member_did, convo_id, provider, url, host, secret)
        values ('did:x:1', 'c1', 'webhook', 'https://b.example/', 'b.example', 'secret');
        insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, state, delivered_at)
        values ('1', 'c', 'did:x:1', 'm1', 1, 'a.example', 'delivered', now()), ('2', 'c', 'did:x:2', 'm1', 1, 'a.example', 'pending', null),
               ('3', 'c', 'did:x:3', 'm1', 1, 'elsewhere.example', 'delivered', now()), ('4', 'c2', 'did:x:1', 'm1', 1, 'b.example', 'delivered', now())";
    client.batch_execute(before).await.unwrap();
    let step = include_str!("../../sql/migrations/V019__mailbox_proofs.sql");
    client.batch_execute(&format!("begin; {step}; commit")).await.unwrap();
    let states = "select member_did || ' ' || convo_id || ' ' || state from mailboxes order by 1";
    let states: Vec<String> = client.query(states, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let expected = ["did:x:1  verified", "did:x:1 c1 unverified", "did:x:2  unverified", "did:x:3  unverified"];
    assert_eq!(states, expected);
}

/// Tables of the earlier server, with their columns.
const LEGACY: [(&str, &[&str]); 11] = [
    (
        "conversations",
        &[
            "id",
            "creator_did",
            "current_epoch",
            "name",
            "group_id",
            "cipher_suite",
            "created_at",
            "updated_at",
            "idempotency_key",
        ],
    ),
    ("members", &["convo_id", "member_did", "joined_at", "left_at", "unread_count", "last_read_at"]),
    (
        "messages",
        &[
            "id",
            "convo_id",
            "sender_did",
            "message_type",
            "epoch",
            "seq",
            "ciphertext",
            "created_at",
            "expires_at",
            "idempotency_key",
        ],
    ),
    (
        "key_packages",
        &[
            "id",
            "did",
            "cipher_suite",
            "key_data",
            "key_package_hash",
            "created_at",
            "expires_at",
            "consumed",
            "consumed_at",
        ],
    ),
    (
        "welcome_messages",
        &[
            "id",
            "convo_id",
            "recipient_did",
            "welcome_data",
            "key_package_hash",
            "created_at",
            "consumed",
            "consumed_at",
            "state",
            "fetched_at",
            "confirmed_at",
        ],
    ),
    ("envelopes", &["id", "convo_id", "recipient_did", "message_id", "created_at", "delivered_at"]),
    ("cursors", &["user_did", "convo_id", "last_seen_cursor", "updated_at"]),
    ("event_stream", &["id", "convo_id", "event_type", "payload", "emitted_at"]),
    ("message_recipients", &["message_id", "recipient_did", "delivered_at"]),
    ("blobs", &["key", "content_type", "size_bytes", "created_at", "ref_count"]),
    ("idempotency_cache", &["key", "endpoint", "response_body", "status_code", "created_at", "expires_at"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn members_are_not_told_of_devices_that_an_earlier_build_registered() {
    let database = database().await;
    let client = database.connect().await;
    // As the earlier build leaves it.
    let device = "insert into devices (owner_did, device_id, name, signature_key)
        values ('did:x:bob', $1, 'phone', sha256(convert_to($1, 'UTF8')))";
    client.execute(device, &[&"before"]).await.unwrap();
    client.batch_execute(include_str!("../../sql/migrations/V040__device_announcements.sql")).await.unwrap();
    // As it goes on during a rolling deployment.
    client.execute(device, &[&"during"]).await.unwrap();
    let open = "select device_id from devices where announced_to is not null";
    assert_eq!(rows(&client, open).await, [[Some("during".to_owned())]]);
}

/// Returns the rows of a query in psql's text form, as an operator with the old tables in the search path sees them.
async fn rows(client: &Client, query: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(&format!("set search_path = legacy, public; {query}")).await.unwrap();
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect::<Vec<_>>())
        }
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_servers_tables_are_there_with_their_columns() {
    let database = database().await;
    let client = database.connect().await;
    for (table, columns) in LEGACY {
        rows(&client, &format!("select {} from {table}", columns.join(", "))).await;
        let known = "select count(*) from pg_views where schemaname = 'legacy' and viewname = $1";
        assert_eq!(client.query_one(known, &[&table]).await.unwrap().get::<_, i64>(0), 1, "legacy.{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_old_queries_tell_the_truth() {
    let database = database().await;
    let fleet = Fleet::start(&[Mode::Advisory], &database.config, &database.url).await;
    let mut members = fleet.conversation(3).await;
    members[0].send("hello").await.unwrap();
    members[1].leave().await.unwrap();
    let client = database.connect().await;
    let convo = members[0].convo().unwrap();

    let duplicates = "select convo_id, epoch, count(*) from messages where message_type = 'commit'
        group by convo_id, epoch having count(*) > 1";
    assert!(rows(&client, duplicates).await.is_empty());
    let of = |values: &[&str]| vec![values.iter().map(|value| Some((*value).to_owned())).collect::<Vec<_>>()];
    let position = format!("select current_epoch, name from conversations where id = '{convo}'");
    assert_eq!(rows(&client, &position).await, of(&["1", "race"]));
    let commits = "select epoch, seq from messages where message_type = 'commit'";
    assert_eq!(rows(&client, commits).await, of(&["1", "1"]));
    let keyed = "select count(*) from messages where message_type = 'app' and idempotency_key is not null";
    assert_eq!(rows(&client, keyed).await, of(&["1"]));
    let unread = format!("select unread_count from members where member_did = '{}'", members[2].did());
    assert_eq!(rows(&client, &unread).await, of(&["1"]));
    let left = "select count(*) from members where left_at is not null";
    assert_eq!(rows(&client, left).await, of(&["1"]));
    let consumed = "select count(*) filter (where consumed), count(distinct id), count(*) from key_packages";
    assert_eq!(rows(&client, consumed).await, of(&["2", "6", "6"]));
    let welcomes = "select count(*) from welcome_messages where consumed and confirmed_at is not null";
    assert_eq!(rows(&client, welcomes).await, of(&["2"]));

    // The query finds a violation: the same log without the constraint and with a second commit.
    let second = "set search_path = public; drop index messages_commit_epoch_key;
        update conversations set last_seq = last_seq + 1;
        insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext, body_hash)
        select id, last_seq, 'second', creator_did, 'commit', 1, '', '' from conversations";
    client.batch_execute(second).await.unwrap();
    assert_eq!(rows(&client, duplicates).await, of(&[convo, "1", "2"]));
}
