//! Logs: messages are deleted by age, commits wait for their readers, the newest entry stays, and accepted requests are
//! still recognised.

use catbird_client::mls::Proposal;
use catbird_client::persona::{Persona, hex};
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_server::config::Retention;
use catbird_server::jobs::SweepOutcome;
use catbird_testkit::app::TestApp;
use serde_json::json;
use tokio_postgres::Client;

use crate::retention::{KEPT, column, pass, sweeps};

/// Makes all entries of a log older, with their records.
pub(crate) async fn age(db: &Client, convo: &str, days: i32) {
    for older in [
        "update idempotency_records r set created_at = r.created_at - make_interval(days => $2)
           from messages m where m.convo_id = $1 and r.reply ->> 'id' = m.id",
        "update messages set created_at = created_at - make_interval(days => $2) where convo_id = $1",
    ] {
        db.execute(older, &[&convo, &days]).await.unwrap();
    }
}

/// Returns the kept entries, as in "3c 5a": a commit and a message.
async fn kept(db: &Client, convo: &str) -> String {
    let entries = format!("select seq || left(message_type, 1) from messages where convo_id = '{convo}' order by seq");
    column::<String>(db, &entries).await.join(" ")
}

async fn page(reader: &Persona, parameters: &[(&str, &str)]) -> Reply {
    let convo = [("convoId", reader.convo().unwrap())];
    let parameters: Vec<_> = convo.iter().chain(parameters).map(|(name, value)| (*name, (*value).to_owned())).collect();
    let reply = reader.xrpc.query("getMessages", &parameters).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply
}

fn seqs(reply: &Reply) -> Vec<u64> {
    reply.list("messages").unwrap().iter().map(|entry| reply.number_in(entry, "seq").unwrap()).collect()
}

async fn commits(reader: &Persona) -> Reply {
    let parameters = [("convoId", reader.convo().unwrap().to_owned()), ("fromEpoch", "0".to_owned())];
    let reply = reader.xrpc.query("getCommits", &parameters).await.unwrap();
    assert_eq!(reply.status, 200, "{reply}");
    reply
}

fn epochs(reply: &Reply) -> Vec<u64> {
    reply.list("commits").unwrap().iter().map(|commit| reply.number_in(commit, "epoch").unwrap()).collect()
}

/// Alice, Bob and Carol (1 commit), two messages, Dave (a commit), a message, Erin (a commit), a message: 1c 2a 3a 4c
/// 5a 6c 7a. Bob has read everything, Carol nothing after she joined.
async fn told(app: &TestApp) -> Vec<Persona> {
    let mut members = app.conversation(3).await;
    members[0].send("one").await.unwrap();
    members[0].send("two").await.unwrap();
    for _ in 0..2 {
        let newcomer = app.published_persona().await;
        members[0].add(&[newcomer.did()]).await.unwrap();
        members[0].send("hello").await.unwrap();
        members.push(newcomer);
    }
    for reader in [0, 1] {
        members[reader].catch_up().await.unwrap();
    }
    // The new members have read everything after they joined.
    let convo = members[0].convo().unwrap().to_owned();
    for newcomer in &mut members[3..] {
        newcomer.join(&convo).await.unwrap();
        newcomer.catch_up().await.unwrap();
    }
    app.settle().await;
    members
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_are_deleted_with_the_commit_that_ended_their_epoch() {
    let app = TestApp::start().await;
    let mut members = app.conversation(3).await;
    let convo = members[0].convo().unwrap().to_owned();
    let propose = async |member: &mut Persona| {
        let Persona { mls, group_id, xrpc, .. } = member;
        let proposal = base64_text(&mls.propose_leave(group_id).unwrap());
        let body = json!({ "convoId": convo, "proposal": proposal });
        assert!(xrpc.procedure("submitProposal", &body).await.unwrap().is_ok());
    };
    propose(&mut members[1]).await;
    let newcomer = app.published_persona().await;
    members[0].add(&[newcomer.did()]).await.unwrap();
    members[2].catch_up().await.unwrap();
    propose(&mut members[2]).await;
    members[0].send("hello").await.unwrap();
    members[0].send("hello").await.unwrap();
    let db = app.database.connect().await;
    assert_eq!(kept(&db, &convo).await, "1c 2p 3c 4p 5a 6a");
    age(&db, &convo, 31).await;
    // Every member has read the first commit, and not every one the second.
    app.settle().await;
    db.execute("update members set last_read_seq = 1 where convo_id = $1 and last_read_seq = 0", &[&convo])
        .await
        .unwrap();
    sweeps(&app, "messages", 2).await;
    assert_eq!(kept(&db, &convo).await, "2p 3c 4p 6a");
    // Then they have. The second proposal is of the present epoch.
    let read = "update members set last_read_seq = 6 where convo_id = $1";
    db.execute(read, &[&convo]).await.unwrap();
    sweeps(&app, "messages", 2).await;
    assert_eq!(kept(&db, &convo).await, "4p 6a");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_that_a_reset_made_void_are_deleted_once_they_are_old() {
    let app = TestApp::start().await;
    let mut members = app.conversation(2).await;
    let convo = members[0].convo().unwrap().to_owned();
    members[1].propose(&Proposal::Update).await.unwrap();
    let reset = json!({
        "convoId": convo, "prior": { "generation": 1, "epoch": 1 }, "newGroupId": hex(random_did().as_bytes()),
    });
    assert!(members[0].xrpc.procedure("resetConvo", &reset).await.unwrap().is_ok());
    let db = app.database.connect().await;
    assert_eq!(kept(&db, &convo).await, "1c 2p 3r");
    app.settle().await;
    db.execute("update members set last_read_seq = 0 where convo_id = $1 and joined_seq = 0", &[&convo]).await.unwrap();
    age(&db, &convo, 29).await;
    sweeps(&app, "messages", 0).await;
    // The reset is the newest entry. The commit waits for its reader.
    age(&db, &convo, 2).await;
    sweeps(&app, "messages", 1).await;
    assert_eq!(kept(&db, &convo).await, "1c 3r");
    db.execute("update members set last_read_seq = 3 where convo_id = $1", &[&convo]).await.unwrap();
    sweeps(&app, "messages", 1).await;
    assert_eq!(kept(&db, &convo).await, "3r");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_messages_are_deleted_and_commits_wait_for_their_readers() {
    let app = TestApp::start().await;
    let mut members = told(&app).await;
    let convo = members[0].convo().unwrap().to_owned();
    let db = app.database.connect().await;
    assert_eq!(kept(&db, &convo).await, "1c 2a 3a 4c 5a 6c 7a");

    // First no entry is old; then only entries beyond the limit are deleted.
    sweeps(&app, "messages", 0).await;
    age(&db, &convo, 29).await;
    sweeps(&app, "messages", 0).await;
    assert_eq!(kept(&db, &convo).await, "1c 2a 3a 4c 5a 6c 7a");
    age(&db, &convo, 2).await;
    assert_eq!(pass(&app.app.store, Retention { messages: None, ..KEPT }, "messages").await, SweepOutcome::Off);
    assert_eq!(kept(&db, &convo).await, "1c 2a 3a 4c 5a 6c 7a");

    // Carol's last commit was her own addition. The newest entry is a message, and stays.
    sweeps(&app, "messages", 4).await;
    assert_eq!(kept(&db, &convo).await, "4c 6c 7a");
    let reply = page(&members[2], &[("sinceSeq", "1"), ("peek", "true")]).await;
    assert_eq!((seqs(&reply), &reply.body["logStart"]), (vec![4, 6, 7], &json!(7)), "{reply}");
    let reply = page(&members[2], &[("peek", "true")]).await;
    assert_eq!((seqs(&reply), &reply.body["logStart"]), (vec![4, 6, 7], &json!(7)), "{reply}");
    let reply = page(&members[2], &[("cursor", "6"), ("peek", "true")]).await;
    assert_eq!((seqs(&reply), &reply.body["logStart"]), (vec![4], &json!(7)), "{reply}");
    let reply = page(&members[2], &[("sinceSeq", "6"), ("peek", "true")]).await;
    assert_eq!((seqs(&reply), reply.body.get("logStart")), (vec![7], None), "{reply}");
    let reply = commits(&members[2]).await;
    assert_eq!(
        (epochs(&reply), reply.body.get("firstEpoch")),
        (vec![2, 3], None),
        "nothing is missing for her: {reply}"
    );
    let reply = commits(&members[0]).await;
    assert_eq!((epochs(&reply), &reply.body["firstEpoch"]), (vec![2, 3], &json!(2)), "{reply}");

    // She reads them, and they are deleted. The log continues after its newest entry.
    app.settle().await;
    sweeps(&app, "messages", 0).await;
    page(&members[2], &[("sinceSeq", "1"), ("markRead", "true")]).await;
    app.settle().await;
    sweeps(&app, "messages", 2).await;
    assert_eq!(kept(&db, &convo).await, "7a");
    let reply = commits(&members[2]).await;
    assert_eq!((epochs(&reply), &reply.body["firstEpoch"]), (vec![], &json!(4)), "{reply}");
    assert_eq!(members[0].send("on").await.unwrap().seq, 8);
    assert_eq!(members[1].catch_up().await.unwrap(), ["on"]);
    assert_eq!(kept(&db, &convo).await, "7a 8a");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_a_limited_time_and_later_readers_are_told() {
    let app = TestApp::start().await;
    let mut members = told(&app).await;
    let convo = members[0].convo().unwrap().to_owned();
    let db = app.database.connect().await;
    // Carol is in her first epoch, and makes a commit there.
    let carol = &mut members[2];
    let staged = carol.mls.add(&carol.group_id, &[app.persona().mls.key_package().unwrap()]).unwrap();
    let stale = json!({ "convoId": convo, "didList": ["did:plc:late"], "commit": base64_text(&staged.commit) });

    let carol = &members[2];
    age(&db, &convo, 89).await;
    sweeps(&app, "messages", 4).await;
    assert_eq!(kept(&db, &convo).await, "4c 6c 7a");
    let lost = carol.xrpc.procedure("addMembers", &stale).await.unwrap();
    assert_eq!((lost.status, lost.list("missing").unwrap().len()), (409, 2), "{lost}");
    // The newer of the two has a day more.
    db.execute("update messages set created_at = created_at - interval '1 day' where seq = 4", &[]).await.unwrap();
    sweeps(&app, "messages", 1).await;
    assert_eq!(kept(&db, &convo).await, "6c 7a");

    // Nothing is skipped silently: missing entries are reported, and a commit that cannot be applied is not returned.
    let reply = page(carol, &[("sinceSeq", "1"), ("peek", "true")]).await;
    assert_eq!((seqs(&reply), &reply.body["logStart"]), (vec![6, 7], &json!(7)), "{reply}");
    let reply = commits(carol).await;
    assert_eq!((epochs(&reply), &reply.body["firstEpoch"]), (vec![3], &json!(3)), "{reply}");
    let lost = carol.xrpc.procedure("addMembers", &stale).await.unwrap();
    assert_eq!((lost.status, lost.error()), (409, Some("EpochExpired")), "{lost}");
    assert_eq!(lost.body["recovery"], "rejoin", "{lost}");
    // Only she knows whether her state is as old as the request.
    assert!(lost.sentence().contains("if your own state is in epoch 3, rebuild it"), "{lost}");
    assert_eq!((&lost.body["missing"], &lost.body["moreMissing"]), (&json!([]), &json!(true)), "{lost}");
    age(&db, &convo, 1).await;
    assert_eq!(pass(&app.app.store, Retention { unread: None, ..KEPT }, "messages").await, SweepOutcome::Made(0));
    sweeps(&app, "messages", 1).await;
    assert_eq!(kept(&db, &convo).await, "7a");
    let reply = commits(carol).await;
    assert_eq!((epochs(&reply), &reply.body["firstEpoch"]), (vec![], &json!(4)), "{reply}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn former_members_hold_nothing_back_and_other_conversations_are_untouched() {
    let app = TestApp::start().await;
    let mut members = told(&app).await;
    let others = told(&app).await;
    let (convo, other) = (members[0].convo().unwrap().to_owned(), others[0].convo().unwrap().to_owned());
    let carol = members.remove(2);
    members[0].remove(carol.did()).await.unwrap();
    members[0].send("bye").await.unwrap();
    for member in &mut members {
        member.catch_up().await.unwrap();
    }
    app.settle().await;
    let db = app.database.connect().await;
    age(&db, &convo, 31).await;
    sweeps(&app, "messages", 8).await;
    assert_eq!(kept(&db, &convo).await, "9a");
    assert_eq!(kept(&db, &other).await, "1c 2a 3a 4c 5a 6c 7a");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_entry_ends_the_sweep_wherever_it_lies() {
    let app = TestApp::start().await;
    let members = told(&app).await;
    let convo = members[0].convo().unwrap().to_owned();
    let db = app.database.connect().await;
    // Entry 3 is newer than its successors, as clocks of transactions that waited for each other allow.
    age(&db, &convo, 31).await;
    db.execute("update messages set created_at = now() where convo_id = $1 and seq = 3", &[&convo]).await.unwrap();
    sweeps(&app, "messages", 2).await;
    assert_eq!(kept(&db, &convo).await, "3a 4c 5a 6c 7a");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_commit_whose_bytes_are_gone_is_recognised() {
    let app = TestApp::start().await;
    let members = told(&app).await;
    let convo = members[0].convo().unwrap().to_owned();
    let db = app.database.connect().await;
    let commit: Vec<u8> = column(&db, "select ciphertext from messages where seq = 1").await.remove(0);
    age(&db, &convo, 31).await;
    sweeps(&app, "messages", 4).await;
    let again = json!({ "convoId": convo, "didList": [members[1].did()], "commit": base64_text(&commit) });
    let reply = members[0].xrpc.procedure("addMembers", &again).await.unwrap();
    assert_eq!((reply.status, &reply.body["newEpoch"], &reply.body["seq"]), (200, &json!(1), &json!(1)), "{reply}");
    // Only for its sender.
    let reply = members[1].xrpc.procedure("addMembers", &again).await.unwrap();
    assert_eq!(reply.status, 409, "{reply}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_went_too_early_is_named_by_the_check() {
    let app = TestApp::start().await;
    let members = told(&app).await;
    let db = app.database.connect().await;
    age(&db, members[0].convo().unwrap(), 31).await;
    sweeps(&app, "messages", 4).await;
    let too_early = "with gone as (delete from messages where seq = 4 returning *)
        insert into retired_commits select convo_id, epoch, seq, sender_did, body_hash from gone";
    db.batch_execute(too_early).await.unwrap();
    let report = catbird_server::check::run(&app.database.config).await.unwrap();
    assert_eq!(report.violated(), ["unread_commits"], "{report}");
    // And a message that should have been deleted, and one that should not.
    db.batch_execute("update log_starts set seq = 8").await.unwrap();
    let report = catbird_server::check::run(&app.database.config).await.unwrap();
    assert!(report.violated().contains(&"sequence_gaps"), "{report}");
}
