//! getConvos: each of the caller's conversations once, newest first, with unread counts that are exact up to a hundred.

use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    unread_counts_are_exact_and_per_member;
    the_newest_message_is_dated_and_commits_are_not_messages;
    p7_entries_from_before_a_join_are_not_unread;
    p6_pages_cover_everything_once_while_others_write;
}
any_serializer! {
    at_most_100_unread_messages_are_counted;
    only_the_newest_200_entries_are_looked_at;
    a_list_costs_the_same_however_much_is_unread_and_however_many_are_members;
    a_list_costs_the_same_however_many_conversations_its_reader_has;
    a_caller_without_conversations_gets_an_empty_list;
    conversations_that_were_left_are_not_listed;
    a_malformed_cursor_is_refused;
    limits_are_1_to_100;
    a_page_is_bounded_by_the_rosters_on_it_but_never_empty;
}

async fn unread(member: &catbird_client::persona::Persona) -> Value {
    only_convo(member).await["unreadCount"].clone()
}

async fn unread_counts_are_exact_and_per_member(app: &TestApp) {
    let mut members = app.conversation(3).await;
    for n in 0..12 {
        members[0].send(&n.to_string()).await.unwrap();
    }
    members[1].send("one of bob's own").await.unwrap();
    // Exactly these counts; earlier versions added to them per ten messages or per retry.
    assert_eq!(
        (unread(&members[0]).await, unread(&members[1]).await, unread(&members[2]).await),
        (json!(1), json!(12), json!(13))
    );
    let id = convo(&members[2]);
    let marking = [("convoId", &*id), ("sinceSeq", "1"), ("limit", "5"), ("markRead", "true")];
    let seen = ok(get(&members[2], "getMessages", &marking).await);
    assert_eq!(seen.list("messages").unwrap().len(), 5);
    app.settle().await;
    assert_eq!((unread(&members[1]).await, unread(&members[2]).await), (json!(12), json!(8)));
    members[2].catch_up().await.unwrap();
    app.settle().await;
    assert_eq!(unread(&members[2]).await, json!(0));
    // A repeated request is not a second message.
    let asked = with(&message(&members[0], b"twice"), json!({ "idempotencyKey": "k" }));
    for _ in 0..2 {
        ok(ask(&members[0], "sendMessage", &asked).await);
    }
    assert_eq!(unread(&members[2]).await, json!(1));
}

async fn the_newest_message_is_dated_and_commits_are_not_messages(app: &TestApp) {
    let mut members = app.conversation(2).await;
    assert_eq!(only_convo(&members[0]).await.get("lastMessageAt"), None);
    let sent = ok(ask(&members[0], "sendMessage", &message(&members[0], b"hello")).await);
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    for member in &members {
        let seen = only_convo(member).await;
        assert_eq!(seen["lastMessageAt"], sent.body["receivedAt"]);
        assert_eq!((&seen["seq"], &seen["epoch"]), (&json!(3), &json!(2)));
    }
    assert_eq!(unread(&members[1]).await, json!(1));
}

async fn p7_entries_from_before_a_join_are_not_unread(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[0].send("a secret").await.unwrap();
    let carol = app.published_persona().await;
    members[0].add(&[carol.did()]).await.unwrap();
    let seen = only_convo(&carol).await;
    assert_eq!((&seen["unreadCount"], seen.get("lastMessageAt")), (&json!(0), None));
}

async fn p6_pages_cover_everything_once_while_others_write(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let mut ids = Vec::new();
    let create = async |n: usize| {
        let asked = json!({
            "groupId": format!("{n:04x}"), "cipherSuite": alice.mls.suite_name(), "initialMembers": [bob.did()],
        });
        ok(ask(&alice, "createConvo", &asked).await).string("id").unwrap().to_owned()
    };
    for n in 0..7 {
        ids.push(create(n).await);
    }
    let mut seen = Vec::new();
    let mut cursor = None::<String>;
    for page in 0.. {
        let mut parameters = vec![("limit", "3")];
        parameters.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let reply = ok(get(&bob, "getConvos", &parameters).await);
        seen.extend(reply.list("conversations").unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        create(100 + page).await;
        let busy = json!({ "convoId": ids[0], "ciphertext": { "$bytes": "aGVsbG8" }, "epoch": 0 });
        ok(ask(&alice, "sendMessage", &busy).await);
        cursor = reply.body["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    ids.sort_unstable_by(|a, b| b.cmp(a));
    assert_eq!(seen, ids);
}

async fn a_caller_without_conversations_gets_an_empty_list(app: &TestApp) {
    app.conversation(2).await;
    assert_eq!(ok(get(&app.persona(), "getConvos", &[]).await).body, json!({ "conversations": [] }));
}

async fn conversations_that_were_left_are_not_listed(app: &TestApp) {
    let members = app.conversation(2).await;
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    assert_eq!(ok(get(&members[1], "getConvos", &[]).await).list("conversations").unwrap().len(), 0);
}

async fn a_malformed_cursor_is_refused(app: &TestApp) {
    let alice = app.persona();
    for cursor in [
        "",
        " ",
        "0",
        "1",
        "abc",
        "zzzzzzzz",
        "01jb2n0w3e8z6tq9k4m5v7x1ya",
        "a b",
        "é",
        "'; drop table members; --",
        &"x".repeat(65),
    ] {
        refused(get(&alice, "getConvos", &[("cursor", cursor)]).await, 400, "InvalidCursor");
    }
    ok(get(&alice, "getConvos", &[("cursor", "01JB2N0W3E8Z6TQ9K4M5V7X1YA")]).await);
}

async fn limits_are_1_to_100(app: &TestApp) {
    let members = app.conversation(2).await;
    for limit in ["0", "-1", "101", "1.0", "x", "", "99999999999999999999"] {
        refused(get(&members[0], "getConvos", &[("limit", limit)]).await, 400, "InvalidRequest");
    }
    for limit in ["1", "100"] {
        assert_eq!(
            ok(get(&members[0], "getConvos", &[("limit", limit)]).await).list("conversations").unwrap().len(),
            1
        );
    }
}

async fn a_page_is_bounded_by_the_rosters_on_it_but_never_empty(app: &TestApp) {
    let (alice, mut sizes, mut cursor) = (app.persona(), Vec::new(), None::<String>);
    for (n, others) in [3_000, 9_999, 3_000, 4_000].into_iter().enumerate() {
        let asked = json!({ "groupId": format!("{n:04x}"), "cipherSuite": alice.mls.suite_name() });
        let created = ok(ask(&alice, "createConvo", &asked).await);
        seed_members(app, created.string("id").unwrap(), others).await;
    }
    loop {
        let parameters: Vec<_> = cursor.as_deref().map(|cursor| ("cursor", cursor)).into_iter().collect();
        let page = ok(get(&alice, "getConvos", &parameters).await);
        let convos = page.list("conversations").unwrap();
        assert!(convos.iter().all(|one| one["memberCount"] == one["members"].as_array().unwrap().len()));
        let members: u64 = convos.iter().map(|one| one["memberCount"].as_u64().unwrap()).sum();
        assert!(members <= 10_000, "{members} on one page");
        sizes.push(convos.len());
        cursor = page.body["cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(sizes.iter().sum::<usize>(), 4);
    assert!(sizes.len() >= 3, "the one that fills a page has it for itself: {sizes:?}");
}

/// Appends this many messages of one sender, as another replica would.
async fn seed_messages(app: &TestApp, convo: &str, sender: &str, n: i64) {
    sql(app, "update conversations set last_seq = last_seq + $2 where id = $1", &[&convo, &n]).await;
    let seed = "insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
                select id, n, 'seeded-' || n, $2, 'app', current_epoch, 'hello'
                  from conversations, generate_series(last_seq - $3 + 1, last_seq) n where id = $1";
    sql(app, seed, &[&convo, &sender, &n]).await;
}

async fn at_most_100_unread_messages_are_counted(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    seed_messages(app, &id, members[0].did(), 99).await;
    assert_eq!(unread(&members[1]).await, json!(99));
    seed_messages(app, &id, members[0].did(), 2).await;
    assert_eq!(unread(&members[1]).await, json!(100));
    assert_eq!(unread(&members[0]).await, json!(0), "one's own messages are not unread");
}

async fn only_the_newest_200_entries_are_looked_at(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    members[0].send("hello").await.unwrap();
    seed_messages(app, &id, members[1].did(), 199).await;
    assert_eq!(unread(&members[1]).await, json!(1));
    seed_messages(app, &id, members[1].did(), 1).await;
    assert_eq!(unread(&members[1]).await, json!(0));
    assert!(only_convo(&members[1]).await["lastMessageAt"].is_string());
    seed_entries(app, &members[0], "commit", 200, 10).await;
    assert_eq!(only_convo(&members[1]).await.get("lastMessageAt"), None);
}

const LIST: &str = include_str!("../../../sql/queries/convos/list.sql");
const EXPECTED: &str = include_str!("../../../sql/queries/device_additions/expected.sql");

/// Returns how many pages of tables and indexes a statement reads with the plan for any arguments, by PostgreSQL's own count.
async fn pages_touched(app: &TestApp, statement: &str, arguments: &str) -> i64 {
    let db = app.database.connect().await;
    // Vacuum first, because setting hint bits would be counted too.
    db.batch_execute("vacuum analyze").await.unwrap();
    db.batch_execute("set plan_cache_mode = force_generic_plan").await.unwrap();
    db.batch_execute(&format!("prepare asked as {statement}")).await.unwrap();
    let explain = format!("explain (analyze, buffers, format json) execute asked ({arguments})");
    let plan: Value = db.query_one(&explain, &[]).await.unwrap().get(0);
    plan[0]["Plan"]["Shared Hit Blocks"].as_i64().unwrap() + plan[0]["Plan"]["Shared Read Blocks"].as_i64().unwrap()
}

/// Pages for a list of the newest 20 conversations.
async fn pages_of_list(app: &TestApp, did: &str) -> i64 {
    pages_touched(app, LIST, &format!("'{did}', null, 20, 10000, 100, 200")).await
}

/// Pages for 20 conversations, the newest and older ones, of a list and of what a device is expected in.
async fn pages_of_lists(app: &TestApp, did: &str, older: &str) -> [i64; 4] {
    [
        pages_of_list(app, did).await,
        pages_touched(app, LIST, &format!("'{did}', '{older}', 20, 10000, 100, 200")).await,
        pages_touched(app, EXPECTED, &format!("'{did}', null, null, 20")).await,
        pages_touched(app, EXPECTED, &format!("'{did}', null, '{older}', 20")).await,
    ]
}

/// Makes somebody the only member of these conversations, which the database has in no order.
async fn seed_convos(app: &TestApp, did: &str, numbers: std::ops::Range<i64>) {
    let db = app.database.connect().await;
    db.batch_execute("set session_replication_role = replica").await.unwrap();
    let seed = "with new as (
                  insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch, member_count, roster_version)
                  select '01' || lpad(n::text, 24, '0'), lpad(to_hex(n), 4, '0'), $1, $2, 0, 0, 1, 1 from generate_series($3::bigint, $4::bigint - 1) n
                  returning id)
                insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, roster_version)
                select id, $1, 0, 0, 0, 1 from new order by md5(id)";
    let suite = app.persona().mls.suite_name();
    db.execute(seed, &[&did, &suite, &numbers.start, &numbers.end]).await.unwrap();
    // PostgreSQL expects three conversations of a person, as where most people have few.
    let few = format!("alter table members alter member_did set (n_distinct = {})", numbers.end / 3);
    db.batch_execute(&few).await.unwrap();
}

async fn a_list_costs_the_same_however_many_conversations_its_reader_has(app: &TestApp) {
    let did = catbird_client::random_did();
    seed_convos(app, &did, 1..1_001).await;
    let few = pages_of_lists(app, &did, &format!("01{:024}", 500)).await;
    seed_convos(app, &did, 1_001..20_001).await;
    let many = pages_of_lists(app, &did, &format!("01{:024}", 10_000)).await;
    assert!(few.iter().zip(&many).all(|(few, many)| *many <= 2 * few), "{few:?} pages before, {many:?} after");
}

async fn a_list_costs_the_same_however_much_is_unread_and_however_many_are_members(app: &TestApp) {
    let (alice, bob) = (app.persona(), app.persona());
    let mut ids = Vec::new();
    for n in 0..20 {
        let asked = json!({
            "groupId": format!("{n:04x}"), "cipherSuite": alice.mls.suite_name(), "initialMembers": [bob.did()],
        });
        ids.push(ok(ask(&alice, "createConvo", &asked).await).string("id").unwrap().to_owned());
    }
    for id in &ids {
        seed_messages(app, id, alice.did(), 100).await;
    }
    let few = pages_of_list(app, bob.did()).await;
    for id in &ids {
        seed_messages(app, id, alice.did(), 2_000).await;
        seed_members(app, id, 400).await;
    }
    let many = pages_of_list(app, bob.did()).await;
    assert!(many <= 2 * few, "{few} pages before, {many} after");
}
