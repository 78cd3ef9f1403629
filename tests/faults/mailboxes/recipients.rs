//! Recipients: members with a mailbox, entries of others, from joining and setting it until leaving or removing it.

use catbird_client::persona::Persona;
use catbird_client::xrpc::http;
use catbird_testkit::app::TestApp;
use catbird_testkit::lexicon;
use catbird_testkit::receiver::{Receiver, SECRET};
use serde_json::json;
use tokio_postgres::Client;

use crate::mailboxes::{all_delivered, count, owed, rows, set, set_with, start, until};

/// Returns the seqs of a member's envelopes, in order.
async fn seqs(db: &Client, member: &Persona) -> Vec<i64> {
    let made = format!("select '', seq from envelopes where recipient_did = '{}' order by seq", member.did());
    rows(db, &made).await.into_iter().map(|(_, seq)| seq).collect()
}

/// Waits until the log is expanded up to now.
async fn expanded(db: &Client) {
    let behind = "select exists (select from messages m, fan_out f where (m.era, m.tx) >= (f.era, f.below))";
    until("the end of the log", async || !db.query_one(behind, &[]).await.unwrap().get::<_, bool>(0)).await;
}

/// Counts the polls of the log.
async fn looks(app: &TestApp) -> u64 {
    let page = http().unwrap().get(format!("{}/metrics", app.base)).send().await.unwrap().text().await.unwrap();
    let count = page.lines().find_map(|line| line.strip_prefix("database_queries_total{query=\"mailboxes/behind\"} "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envelope_holds_the_entry_and_is_signed() {
    let app = start(&[]).await;
    let mut members = app.conversation(2).await;
    let receiver = Receiver::start().await;
    let mut mailbox = receiver.mailbox();
    mailbox["zone"] = json!("bob's zone");
    set_with(&members[1], mailbox).await;
    let sent = members[0].send("hello").await.unwrap();

    let delivery = receiver.have(1).await.remove(0);
    let body = delivery.json();
    lexicon::validate_def("blue.catbird.mls.defs#envelope", &body).unwrap();
    let page =
        members[1].xrpc.query("getMessages", &[("convoId", members[1].convo().unwrap().to_owned())]).await.unwrap();
    let entry = page.list("messages").unwrap().last().unwrap().clone();
    assert_eq!(entry["id"], sent.message_id.as_str());
    assert_eq!(
        body,
        json!({
            "type": "blue.catbird.mls.envelope",
            "timestamp": entry["createdAt"],
            "data": { "id": delivery.id(), "recipient": members[1].did(), "zone": "bob's zone", "message": entry },
        })
    );
    assert_eq!((delivery.path.as_str(), delivery.headers["content-type"].as_str()), ("/in", "application/json"));
    assert!(delivery.is_signed_with(SECRET) && !delivery.is_signed_with(b"another secret of enough bytes"));
    let db = app.database.connect().await;
    until("the note", async || count(&db, "delivered").await == 1).await;
    assert_eq!(receiver.received().len(), 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_each_recipient_gets_the_entries_of_its_membership_and_nothing_else() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let receiver = Receiver::start().await;
    let mut members = app.conversation(4).await;
    members[0].send("before there were mailboxes").await.unwrap();
    // Alice and Bob have a mailbox, Carol sets one now, Dave has none. Entry 1 is the commit that added them, 2 the
    // message.
    for member in [0, 1, 2] {
        set(&members[member], &receiver).await;
    }
    let erin = app.published_persona().await;
    set(&erin, &receiver).await;
    members[0].send("3").await.unwrap();
    members[1].send("4").await.unwrap();
    members[0].add(&[erin.did()]).await.unwrap();
    members[0].send("6").await.unwrap();
    let bob = members[1].did().to_owned();
    members[0].remove(&bob).await.unwrap();
    members[0].send("8").await.unwrap();
    members[2].leave().await.unwrap();
    members[0].send("9").await.unwrap();

    all_delivered(&db).await;
    assert_eq!(seqs(&db, &members[0]).await, [4], "not its own");
    assert_eq!(seqs(&db, &members[1]).await, [3, 5, 6, 7], "nothing after its removal");
    assert_eq!(seqs(&db, &members[2]).await, [3, 4, 5, 6, 7, 8], "nothing after it left");
    assert_eq!(seqs(&db, &members[3]).await, Vec::<i64>::new(), "no mailbox");
    assert_eq!(seqs(&db, &erin).await, [6, 7, 8, 9], "nothing from before its join");
    let ids = receiver.ids();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), ids.len(), "each came once");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_conversation_can_have_another_mailbox_or_none() {
    let app = start(&[]).await;
    let db = app.database.connect().await;
    let (usual, special) = (Receiver::start().await, Receiver::start().await);
    let mut members = app.conversation(2).await;
    let (alice, bob) = members.split_at_mut(1);
    let (alice, bob) = (&mut alice[0], &bob[0]);
    let convo = alice.convo().unwrap().to_owned();
    set(bob, &usual).await;
    alice.send("2").await.unwrap();
    usual.have(1).await;

    let mut there = special.mailbox();
    there["convoId"] = json!(convo);
    set_with(bob, there).await;
    alice.send("3").await.unwrap();
    special.have(1).await;

    set_with(bob, json!({ "convoId": convo, "provider": "none" })).await;
    alice.send("4").await.unwrap();
    expanded(&db).await;
    assert_eq!(seqs(&db, bob).await, [2, 3]);

    let mut back = usual.mailbox();
    back["convoId"] = json!(convo);
    set_with(bob, back).await;
    alice.send("5").await.unwrap();
    usual.have(2).await;
    assert_eq!(seqs(&db, bob).await, [2, 3, 5], "4 was not wanted, and stays so");
    set_with(bob, json!({ "convoId": convo, "provider": "none" })).await;
    set_with(bob, json!({ "provider": "none" })).await;
    assert_eq!((usual.received().len(), special.received().len()), (2, 1));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_envelopes_follow_their_owner_to_a_new_mailbox_or_are_withdrawn() {
    let app = start(&[("MAILBOX_RETRY_SECONDS", "1")]).await;
    let db = app.database.connect().await;
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    old.answer(catbird_testkit::receiver::Answer::Status(503));
    let mut members = app.conversation(3).await;
    set(&members[1], &old).await;
    set(&members[2], &old).await;
    members[0].send("hello").await.unwrap();
    old.have(2).await;
    set(&members[1], &new).await;
    set_with(&members[2], json!({ "provider": "none" })).await;
    let moved = new.have(1).await.remove(0);
    assert_eq!(moved.json()["data"]["recipient"], members[1].did());
    until("the withdrawal", async || count(&db, "pending").await == 0).await;
    assert_eq!(seqs(&db, &members[2]).await, Vec::<i64>::new());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_writer_that_came_first_and_commits_last_is_not_passed_over() {
    let app = start(&[]).await;
    let receiver = Receiver::start().await;
    let (mut here, there) = (app.conversation(2).await, app.conversation(2).await);
    set(&here[1], &receiver).await;
    set(&there[1], &receiver).await;
    let db = app.database.connect().await;
    let mut late = app.database.connect().await;
    let late = late.transaction().await.unwrap();
    let append = format!(
        "update conversations set last_seq = last_seq + 1 where id = '{0}';
         insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
         select id, last_seq, 'late', creator_did, 'app', current_epoch, 'opaque' from conversations where id = '{0}'",
        there[0].convo().unwrap()
    );
    late.batch_execute(&append).await.unwrap();

    // A second message is written by a transaction that started later and commits first.
    here[0].send("in between").await.unwrap();
    let naive = "select max(tx::text::bigint) from messages";
    let naive: i64 = db.query_one(naive, &[]).await.unwrap().get(0);
    // The expansion has run, so a mistake would show.
    let looked = looks(&app).await;
    until("another look", async || looks(&app).await >= looked + 2).await;
    assert_eq!(owed(&db).await.0, vec![], "nothing beyond a transaction that runs is expanded");
    late.commit().await.unwrap();

    all_delivered(&db).await;
    let position = "select tx::text::bigint from messages where id = 'late'";
    let position: i64 = db.query_one(position, &[]).await.unwrap().get(0);
    assert!(position < naive, "a cursor that follows the newest id seen ({naive}) would have passed over {position}");
    assert_eq!(owed(&db).await.0.len(), 2);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_expanded_whole_however_many_entries_it_wrote() {
    let app = start(&[]).await;
    let receiver = Receiver::start().await;
    let members = app.conversation(2).await;
    set(&members[1], &receiver).await;
    let mut db = app.database.connect().await;
    let many = db.transaction().await.unwrap();
    for _ in 0..450 {
        let append = "update conversations set last_seq = last_seq + 1;
            insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
            select id, last_seq, 'm' || last_seq, creator_did, 'app', current_epoch, 'opaque' from conversations";
        many.batch_execute(append).await.unwrap();
    }
    many.commit().await.unwrap();
    let db = app.database.connect().await;
    all_delivered(&db).await;
    assert_eq!(count(&db, "delivered").await, 450);
    app.finish().await;
}
