//! P4: a request that is sent again with the same key, message id or commit bytes gets the first reply and changes nothing, also
//! when both arrive at once, and also when they arrive at two replicas with different serializers.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text, bytes_value};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::examples::{Example, examples, methods};
use crate::harness::*;

either_serializer! {
    p4_the_same_request_under_the_same_key_returns_the_first_result_and_writes_nothing;
    p4_another_request_under_the_same_key_is_a_conflict_and_writes_nothing;
    p4_twenty_equal_requests_at_once_write_what_one_writes;
    p4_twenty_equal_messages_under_one_id_at_once_are_one_message;
    p4_twenty_equal_commits_without_a_key_at_once_are_one_commit;
    p4_a_key_belongs_to_one_caller_and_one_method;
    p4_failures_are_not_kept;
    p4_a_message_id_is_one_message_of_one_sender;
    p4_an_addition_is_known_by_its_bytes_long_after;
    p4_a_removal_is_known_by_its_bytes_long_after;
    p4_a_request_whose_client_went_away_is_done_once;
    p4_replicas_of_both_kinds_recognise_repeated_requests;
}

/// Returns the examples of every method that takes a key.
async fn cases(app: &TestApp) -> Vec<Example> {
    let mut cases = Vec::new();
    for method in methods().into_iter().filter(|method| method.has("idempotencyKey")) {
        cases.extend(examples(app, method.name).await);
    }
    cases
}

impl Example {
    /// Returns the request with a key.
    fn keyed(&self, key: &str) -> Value {
        keyed(&self.input(), key)
    }
}

/// Returns the first member's request to remove the `n`-th.
fn removal(members: &mut Persona, n: usize) -> Value {
    let target = members.mls.members(&members.group_id).unwrap()[n].clone();
    let staged = members.mls.remove(&members.group_id, &[&target]).unwrap();
    json!({ "convoId": convo(members), "targetDid": target, "commit": base64_text(&staged.commit) })
}

fn keyed(body: &Value, key: &str) -> Value {
    with(body, json!({ "idempotencyKey": key }))
}

async fn p4_the_same_request_under_the_same_key_returns_the_first_result_and_writes_nothing(app: &TestApp) {
    for case in cases(app).await {
        let asked = case.keyed("a key of mine, 🗝");
        let first = ok(case.send(&asked).await);
        let before = contents(app).await;
        for _ in 0..3 {
            assert_eq!(ok(case.send(&asked).await).body, first.body, "{}", case.method);
        }
        assert_eq!(contents(app).await, before, "{}", case.method);
    }
}

async fn p4_another_request_under_the_same_key_is_a_conflict_and_writes_nothing(app: &TestApp) {
    for case in cases(app).await {
        let (asked, other) = (case.keyed("k"), with(&case.keyed("k"), case.other.clone()));
        let first = ok(case.send(&asked).await);
        let before = contents(app).await;
        let reply = refused(case.send(&other).await, 409, "IdempotencyConflict");
        assert_eq!(reply.body["recovery"], "giveUp");
        assert_eq!(contents(app).await, before, "{}", case.method);
        assert_eq!(ok(case.send(&asked).await).body, first.body, "{}", case.method);
    }
}

async fn at_once(caller: &Persona, method: &str, body: &Value) -> Vec<Reply> {
    join_all((0..20).map(|_| ask(caller, method, body))).await
}

#[track_caller]
fn all_equal(replies: Vec<Reply>) {
    let first = ok(replies[0].clone());
    for reply in replies {
        assert_eq!(ok(reply).body, first.body);
    }
}

/// Tables to which a request with a key may add rows.
const WRITTEN: [&str; 7] =
    ["conversations", "devices", "idempotency_records", "key_packages", "members", "messages", "welcomes"];

/// Returns how many rows each of those tables has gained.
async fn more(app: &TestApp, before: &Contents) -> Vec<(&'static str, i64)> {
    let after = contents(app).await;
    WRITTEN.map(|table| (table, after.count(table) - before.count(table))).to_vec()
}

async fn p4_twenty_equal_requests_at_once_write_what_one_writes(app: &TestApp) {
    for (one, twenty) in cases(app).await.into_iter().zip(cases(app).await) {
        let before = contents(app).await;
        ok(one.send(&one.keyed("k")).await);
        let of_one = more(app, &before).await;
        for (table, adds, deletes) in [
            ("conversations", &["createConvo"][..], &[][..]),
            ("devices", &["registerDevice"], &["deleteDevice"]),
            ("key_packages", &["publishKeyPackage", "publishKeyPackages", "registerDevice"], &["deleteDevice"]),
        ] {
            let rows = i64::from(adds.contains(&one.method)) - i64::from(deletes.contains(&one.method));
            assert!(of_one.contains(&(table, rows)), "{}: {of_one:?}", one.method);
        }
        assert!(of_one.contains(&("idempotency_records", 1)), "{}: {of_one:?}", one.method);
        let before = contents(app).await;
        all_equal(at_once(&twenty.caller, twenty.method, &twenty.keyed("k")).await);
        assert_eq!(more(app, &before).await, of_one, "{}", one.method);
    }
}

async fn p4_twenty_equal_messages_under_one_id_at_once_are_one_message(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await.count("messages");
    let asked = with(&message(&members[0], b"hello"), json!({ "msgId": "one-of-its-kind" }));
    all_equal(at_once(&members[0], "sendMessage", &asked).await);
    assert_eq!(contents(app).await.count("messages"), before + 1);
}

async fn p4_twenty_equal_commits_without_a_key_at_once_are_one_commit(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let addition = offer(&mut members[0], &[&app.persona()]).body;
    all_equal(at_once(&members[0], "addMembers", &addition).await);
    merge(&mut members[0]);
    let removal = removal(&mut members[0], 2);
    all_equal(at_once(&members[0], "leaveConvo", &removal).await);
    assert_eq!(members[0].server_epoch().await.unwrap(), 3);
}

async fn p4_a_key_belongs_to_one_caller_and_one_method(app: &TestApp) {
    let members = app.conversation(2).await;
    let first = ok(ask(&members[0], "sendMessage", &keyed(&message(&members[0], b"mine"), "k")).await);
    let second = ok(ask(&members[1], "sendMessage", &keyed(&message(&members[1], b"yours"), "k")).await);
    assert_ne!(first.body["messageId"], second.body["messageId"]);
    let add = keyed(&json!({ "convoId": convo(&members[0]), "didList": [random_did()] }), "k");
    ok(ask(&members[0], "addMembers", &add).await);
    let leave = keyed(&json!({ "convoId": convo(&members[0]) }), "k");
    ok(ask(&members[0], "leaveConvo", &leave).await);
    // A reply stays its caller's for ever, even after its membership has ended.
    let again = ok(ask(&members[0], "sendMessage", &keyed(&message(&members[0], b"mine"), "k")).await);
    assert_eq!(again.body, first.body);
}

async fn p4_failures_are_not_kept(app: &TestApp) {
    let members = app.conversation(2).await;
    let early = keyed(&with(&message(&members[0], b"hello"), json!({ "epoch": 2 })), "k");
    refused(ask(&members[0], "sendMessage", &early).await, 409, "EpochAhead");
    refused(ask(&members[0], "sendMessage", &with(&early, json!({ "epoch": -1 }))).await, 400, "InvalidRequest");
    assert_eq!(
        landed(&ok(ask(&members[0], "sendMessage", &keyed(&message(&members[0], b"hello"), "k")).await)),
        (1, 2)
    );
    // The same body, refused before, is accepted once its epoch has come.
    let early = with(&early, json!({ "idempotencyKey": "l" }));
    refused(ask(&members[0], "sendMessage", &early).await, 409, "EpochAhead");
    seed_entries(app, &members[1], "commit", 1, 10).await;
    assert_eq!(landed(&ok(ask(&members[0], "sendMessage", &early).await)), (2, 4));
}

async fn p4_a_message_id_is_one_message_of_one_sender(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = with(&message(&members[0], b"hello"), json!({ "msgId": "m-1", "embedType": "t" }));
    let first = ok(ask(&members[0], "sendMessage", &asked).await);
    seed_entries(app, &members[1], "commit", 2, 10).await;
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[0], "sendMessage", &asked).await).body, first.body, "although its epoch is over");
    for changes in [
        json!({ "ciphertext": bytes_value(b"hullo") }),
        json!({ "epoch": 3 }),
        json!({ "embedType": null }),
        json!({ "embedUri": "https://example.com" }),
    ] {
        refused(ask(&members[0], "sendMessage", &with(&asked, changes)).await, 409, "IdempotencyConflict");
    }
    let theirs = with(&asked, json!({ "epoch": 3 }));
    refused(ask(&members[1], "sendMessage", &theirs).await, 409, "IdempotencyConflict");
    assert_eq!(contents(app).await, before);
    // Another conversation has its own ids.
    let elsewhere = app.conversation(1).await;
    ok(ask(&elsewhere[0], "sendMessage", &with(&message(&elsewhere[0], b"hello"), json!({ "msgId": "m-1" }))).await);
}

async fn p4_an_addition_is_known_by_its_bytes_long_after(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let addition = offer(&mut members[0], &[&app.persona()]).body;
    let first = ok(ask(&members[0], "addMembers", &addition).await);
    seed_entries(app, &members[1], "commit", 5, 10).await;
    seed_entries(app, &members[1], "app", 5, 10).await;
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[0], "addMembers", &addition).await).body, first.body);
    // With a new key, and from another member, for which it is an ordinary stale commit.
    assert_eq!(ok(ask(&members[0], "addMembers", &keyed(&addition, "late")).await).body, first.body);
    refused(ask(&members[1], "addMembers", &addition).await, 409, "EpochMismatch");
    assert_eq!(contents(app).await, before);
}

async fn p4_a_removal_is_known_by_its_bytes_long_after(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let removal = removal(&mut members[0], 2);
    let first = ok(ask(&members[0], "leaveConvo", &removal).await);
    seed_entries(app, &members[1], "commit", 5, 10).await;
    // Even if the removed member has rejoined meanwhile.
    let back = json!({ "convoId": convo(&members[1]), "didList": [members[2].did()] });
    ok(ask(&members[1], "addMembers", &back).await);
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[0], "leaveConvo", &removal).await).body, first.body);
    assert_eq!(contents(app).await, before);
}

async fn p4_a_request_whose_client_went_away_is_done_once(app: &TestApp) {
    let members = app.conversation(2).await;
    let db = app.database.connect().await;
    // Another transaction holds the conversation, so the request is certainly in progress when its client disconnects.
    db.batch_execute(&format!("begin; select from conversations where id = '{}' for update", convo(&members[0])))
        .await
        .unwrap();
    let asked = keyed(&message(&members[0], b"hello"), "k");
    let sending = ask(&members[0], "sendMessage", &asked);
    let waiting = async {
        let watcher = app.database.connect().await;
        let start = Instant::now();
        let blocked =
            "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        while watcher.query_one(blocked, &[]).await.unwrap().get::<_, i64>(0) == 0 {
            assert!(start.elapsed() < Duration::from_secs(5), "the request never reached the database");
        }
    };
    tokio::select! {
        reply = sending => panic!("answered too early: {reply}"),
        () = waiting => {}
    }
    db.batch_execute("rollback").await.unwrap();
    let first = ok(ask(&members[0], "sendMessage", &asked).await);
    assert_eq!(landed(&first), (1, 2));
    assert_eq!(contents(app).await.count("messages"), 2);
}

async fn p4_replicas_of_both_kinds_recognise_repeated_requests(app: &TestApp) {
    let beside = Beside::start(app, app.app.serializer.registry().is_none()).await;
    let mut members = app.conversation(2).await;
    // By key, by message id, and by commit bytes.
    let mut requests: Vec<_> =
        cases(app).await.into_iter().map(|case| (case.method, case.keyed("k"), case.caller)).collect();
    for round in 0..5 {
        let body = with(&message(&members[1], b"hello"), json!({ "msgId": format!("m-{round}") }));
        requests.push(("sendMessage", body, Persona::new(members[1].xrpc.clone())));
    }
    let body = offer(&mut members[0], &[&app.persona()]).body;
    requests.push(("addMembers", body, members.remove(0)));
    for (method, asked, caller) in requests {
        let there = beside.xrpc(&caller);
        let before = contents(app).await;
        let replies = (0..20).map(async |n| {
            let xrpc = if n % 2 == 0 { &caller.xrpc } else { &there };
            xrpc.procedure(method, &asked).await.unwrap()
        });
        all_equal(join_all(replies).await);
        let is_entry = method == "sendMessage"
            || asked["commit"].is_string()
            || asked["proposal"].is_string()
            || method == "processExternalCommit";
        let entries = i64::from(is_entry);
        assert_eq!(contents(app).await.count("messages") - before.count("messages"), entries, "{method}");
    }
    beside.stop().await;
}
