//! Expansion of the log in portions of any size.

use catbird_testkit::cluster::database;

use super::super::{Store, StoreConfig};
use super::expand::{FEW_WEBHOOKS, MAX_ENTRIES};
use crate::metrics::Registry;
use crate::store::StoreMetrics;

const CONVOS: i64 = 4;
/// Members of each conversation, beside one that has left.
const MEMBERS: i64 = 150;
const ENTRIES: i64 = 3;

/// Creates conversations with the same members, some of whom have a webhook. One member has left each before its last
/// entry.
async fn setting(webhooks: i64) -> (Store, tokio_postgres::Client, catbird_testkit::cluster::TestDatabase) {
    let database = database().await;
    let client = database.connect().await;
    let people = format!(
        "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
         select 'c' || n, 'g' || n, 'did:x:0', 's', 0, 0 from generate_series(1, {CONVOS}) n;
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, left_at, left_seq, left_epoch, left_by)
         select 'c' || c, 'did:x:' || n, 0, 0, 0, case when n = 1 then now() end, case when n = 1 then {ENTRIES} - 1 end,
                case when n = 1 then 0 end, case when n = 1 then 'did:x:1' end
           from generate_series(1, {CONVOS}) c, generate_series(0, {MEMBERS}) n;
         insert into mailboxes (member_did, convo_id, provider, url, host, secret)
         select 'did:x:' || n, '', 'webhook', 'http://127.0.0.1:9/', '127.0.0.1:9', '\\x00' from generate_series(1, {webhooks}) n;
         insert into mailboxes (member_did, convo_id, provider) values ('did:x:2', 'c2', 'none')"
    );
    client.batch_execute(&people).await.unwrap();
    for convo in 1..=CONVOS {
        for seq in 1..=ENTRIES {
            let entry = format!(
                "update conversations set last_seq = {seq} where id = 'c{convo}';
                 insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
                 values ('c{convo}', {seq}, 'm{seq}', 'did:x:3', 'app', 0, 'opaque')"
            );
            client.batch_execute(&entry).await.unwrap();
        }
    }
    let config = StoreConfig { database: database.config.clone(), max_connections: 2, pooler: false };
    (Store::new(config, StoreMetrics::register(&mut Registry::default())).unwrap(), client, database)
}

/// Expands everything, and returns the number of envelopes of each transaction. Other transactions in the cluster may
/// delay it.
async fn expand(store: &Store, client: &tokio_postgres::Client, entries: i64) -> Vec<i64> {
    let behind = "select below <= (select max(tx) from messages) from fan_out";
    let mut made = Vec::new();
    while client.query_one(behind, &[]).await.unwrap().get::<_, bool>(0) {
        match store.expand(entries).await.unwrap().unwrap() {
            0 => tokio::task::yield_now().await,
            some => made.push(some),
        }
    }
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_gets_its_own_entries_with_portions_of_any_size() {
    for webhooks in [1, FEW_WEBHOOKS, FEW_WEBHOOKS + 1, MEMBERS] {
        // The former member lacks the last entry, the second member lacks one conversation, and the third has sent all
        // entries.
        let right = CONVOS * (webhooks * ENTRIES - 1)
            - if webhooks >= 2 { ENTRIES } else { 0 }
            - if webhooks >= 3 { CONVOS * ENTRIES } else { 0 };
        for entries in [1, 7, MAX_ENTRIES] {
            let (store, client, _database) = setting(webhooks).await;
            let made = expand(&store, &client, entries).await;
            assert_eq!(made.iter().sum::<i64>(), right, "{webhooks} webhooks, {entries} entries: {made:?}");
            assert!(made.iter().all(|made| *made <= 25 * entries + CONVOS * ENTRIES), "{made:?}");
            let rows: i64 = client.query_one("select count(*) from envelopes", &[]).await.unwrap().get(0);
            assert_eq!(rows, right);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_an_earlier_build_has_left_behind_is_forgotten() {
    let (store, client, _database) = setting(MEMBERS).await;
    store.expand(1).await.unwrap();
    let placed = "select place_below is not null and place_below = below from fan_out";
    // The first portion may contain transactions before the first entry.
    while !client.query_one(placed, &[]).await.unwrap().get::<_, bool>(0) {
        store.expand(1).await.unwrap();
    }
    client.batch_execute("update fan_out set below = (select max(tx) from messages)").await.unwrap();
    let made: i64 = expand(&store, &client, MAX_ENTRIES).await.iter().sum();
    // Envelopes of the last transaction, which wrote the last entry of one conversation.
    assert_eq!(made, MEMBERS - 2);
}

/// Number of pages that the query for due envelopes reads.
async fn pages(client: &tokio_postgres::Client, since: Option<chrono::DateTime<chrono::Utc>>) -> i64 {
    let explain = format!("explain (analyze, buffers, format json) {}", super::DUE.text);
    let plan: serde_json::Value = client.query_one(&explain, &[&since, &15.0]).await.unwrap().get(0);
    let plan = &plan[0]["Plan"];
    plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_query_for_due_envelopes_skips_delivered_ones_while_an_old_snapshot_is_open() {
    let (store, client, database) = setting(1).await;
    let due = async |since| store.reader().await.unwrap().mailboxes_due(since).await.unwrap();
    let envelopes = "insert into envelopes (id, convo_id, recipient_did, message_id, seq, host, next_attempt_at)
        select $1 || n, 'c', 'r', $1 || n, 1, 'h', now() - $2::float8 * interval '1 second' - n * interval '1 microsecond'
          from generate_series(1, $3::int) n";
    client.execute(envelopes, &[&"old", &600.0, &20_000]).await.unwrap();
    client.execute(envelopes, &[&"waits", &60.0, &1]).await.unwrap();
    let snapshot = database.connect().await;
    snapshot.batch_execute("begin isolation level repeatable read; select count(*) from envelopes").await.unwrap();
    client
        .batch_execute(
            "update envelopes set state = 'delivered', delivered_at = now() where id like 'old%'; analyze envelopes",
        )
        .await
        .unwrap();
    let whole = pages(&client, None).await;
    assert!(whole > 200, "{whole} pages: nothing has to be walked over");

    let first = due(None).await;
    assert!(first.envelopes);
    let walked = pages(&client, Some(first.since)).await;
    assert!(walked < 20, "{walked} pages instead of {whole}");
    assert!(due(Some(first.since)).await.envelopes);

    // If nothing waits, a new envelope is found at once, unless its transaction ran for long; then the next full scan
    // finds it.
    client
        .batch_execute("update envelopes set state = 'delivered', delivered_at = now() where id like 'waits%'")
        .await
        .unwrap();
    let none = due(Some(first.since)).await;
    assert!(!none.envelopes && none.since > first.since);
    client.execute(envelopes, &[&"long", &30.0, &1]).await.unwrap();
    assert!(!due(Some(none.since)).await.envelopes && due(None).await.envelopes);
    client.execute(envelopes, &[&"new", &10.0, &1]).await.unwrap();
    assert!(due(Some(none.since)).await.envelopes);
    snapshot.batch_execute("rollback").await.unwrap();
}
