//! Abandoned conversations end completely and for good, and no others do.

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use serde_json::json;
use tokio_postgres::Client;

use catbird_server::jobs::SweepOutcome;

use crate::retention::{KEPT, column, pass, sweeps};

/// Makes all conversations look inactive for this many days.
async fn age(db: &Client, days: i32) {
    db.execute("update conversations set updated_at = updated_at - make_interval(days => $1)", &[&days]).await.unwrap();
    db.execute("update conversations set ended_at = ended_at - make_interval(days => $1)", &[&days]).await.unwrap();
}

/// Returns the tables with rows of a conversation.
async fn tables(db: &Client, convo: &str) -> Vec<String> {
    let query = format!(
        "select distinct name from (
           select 'conversations' as name, id as convo_id from conversations
           union all select 'conversation_metadata', convo_id from conversation_metadata
           union all select 'members', convo_id from members
           union all select 'messages', convo_id from messages
           union all select 'retired_commits', convo_id from retired_commits
           union all select 'log_starts', convo_id from log_starts
           union all select 'cursors', convo_id from cursors
           union all select 'welcome_messages', convo_id from welcome_messages
           union all select 'welcomes', '{convo}' from welcomes
           union all select 'mailboxes', convo_id from mailboxes
           union all select 'group_infos', convo_id from group_infos
           union all select 'group_info_requests', convo_id from group_info_requests
           union all select 'envelopes', convo_id from envelopes) rows
          where convo_id = '{convo}' order by name"
    );
    column(db, &query).await
}

macro_rules! either_serializer {
    ($name:ident) => {
        mod advisory {
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::TestApp::with(&[("ENABLE_ACTOR_SYSTEM", "false")]).await).await;
            }
        }
        mod actors {
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(super::TestApp::with(&[("ENABLE_ACTOR_SYSTEM", "true")]).await).await;
            }
        }
    };
}

either_serializer!(a_conversation_with_members_that_never_joined_ends_and_its_group_id_stays_taken);

async fn a_conversation_with_members_that_never_joined_ends_and_its_group_id_stays_taken(app: TestApp) {
    let db = app.database.connect().await;
    let mut mallory = app.persona();
    mallory.create(random_did().as_bytes(), "a name").await.unwrap();
    let convo = mallory.convo().unwrap().to_owned();
    // One invited account with a key package and a Welcome, two that do not exist, and one that has left.
    let invited = app.published_persona().await;
    mallory.add(&[invited.did()]).await.unwrap();
    let gone = app.persona();
    let named = json!({ "convoId": convo, "didList": [random_did(), random_did(), gone.did()] });
    assert_eq!(mallory.xrpc.procedure("addMembers", &named).await.unwrap().status, 200);
    assert_eq!(gone.xrpc.procedure("leaveConvo", &json!({ "convoId": convo })).await.unwrap().status, 200);
    mallory.send("anybody?").await.unwrap();
    mallory.catch_up().await.unwrap();
    app.settle().await;
    let cursor = json!({ "convoId": convo, "cursor": "01JB2N0W3E8Z6TQ9K4M5V7X1YA" });
    assert_eq!(mallory.xrpc.procedure("updateCursor", &cursor).await.unwrap().status, 200);
    db.batch_execute(&format!(
        "insert into group_infos (convo_id, epoch, group_info, signer_did) values ('{convo}', 0, 'bytes', 'did:x:a');
         insert into group_info_requests (convo_id, requested_at) values ('{convo}', now())"
    ))
    .await
    .unwrap();
    let mut stream = mallory.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();

    age(&db, 179).await;
    sweeps(&app, "abandoned", 0).await;
    age(&db, 2).await;
    // A writer holds the lock, so it is not abandoned.
    db.execute("select pg_advisory_lock(hashtextextended($1, 0))", &[&convo]).await.unwrap();
    sweeps(&app, "abandoned", 0).await;
    db.execute("select pg_advisory_unlock(hashtextextended($1, 0))", &[&convo]).await.unwrap();
    // Four members, and the conversation itself.
    sweeps(&app, "abandoned", 5).await;
    let told = async {
        loop {
            let event = stream.next().await.unwrap().expect("the stream ended");
            if event.name == "removedEvent" {
                return event;
            }
        }
    };
    let told = tokio::time::timeout(std::time::Duration::from_secs(20), told).await.expect("an event arrives");
    assert_eq!((&told.data["convoId"], &told.data["action"]), (&json!(convo), &json!("left")), "{:?}", told.data);
    let listed = mallory.xrpc.query("getConvos", &[]).await.unwrap();
    assert_eq!(listed.body["conversations"], json!([]), "{listed}");
    let write = json!({ "convoId": convo, "ciphertext": catbird_client::xrpc::bytes_value(b"x"), "epoch": mallory.epoch().unwrap() });
    let refused = mallory.xrpc.procedure("sendMessage", &write).await.unwrap();
    assert_eq!((refused.status, refused.error()), (403, Some("NotMember")), "{refused}");
    let clean = async || {
        let report = catbird_server::check::run(&app.database.config).await.unwrap();
        assert!(report.is_clean(), "{report}");
    };
    clean().await;
    let group_id = column::<String>(&db, "select group_id from conversations").await.remove(0);
    let again = json!({ "groupId": group_id, "cipherSuite": mallory.mls.suite_name() });
    let taken = async || {
        let reply = mallory.xrpc.procedure("createConvo", &again).await.unwrap();
        assert_eq!((reply.status, reply.error()), (409, Some("ConvoAlreadyExists")), "{reply}");
    };
    taken().await;

    age(&db, 29).await;
    sweeps(&app, "abandoned", 0).await;
    age(&db, 2).await;
    db.batch_execute("update messages set created_at = created_at - interval '300 days'; update idempotency_records set created_at = created_at - interval '300 days'").await.unwrap();
    assert!(matches!(pass(&app.app.store, KEPT, "abandoned").await, SweepOutcome::Made(9..)));
    assert_eq!(tables(&db, &convo).await, [""; 0]);
    clean().await;
    taken().await;
    let missing = mallory.xrpc.query("getMessages", &[("convoId", convo.clone())]).await.unwrap();
    assert_eq!((missing.status, missing.error()), (404, Some("ConvoNotFound")), "{missing}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_conversation_of_two_active_members_stays() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    // Bob has opened his Welcome and done nothing else.
    let opened: Vec<Persona> = app.conversation(2).await;
    // Dave has only read.
    let (carol, dave) = (app.persona(), app.persona());
    let body = json!({ "groupId": "ab", "cipherSuite": carol.mls.suite_name(), "initialMembers": [dave.did()] });
    let read = carol.xrpc.procedure("createConvo", &body).await.unwrap().string("id").unwrap().to_owned();
    let message = json!({ "convoId": read, "ciphertext": catbird_client::xrpc::bytes_value(b"x"), "epoch": 0 });
    assert_eq!(carol.xrpc.procedure("sendMessage", &message).await.unwrap().status, 200);
    let marking = [("convoId", read.clone()), ("markRead", "true".to_owned())];
    assert_eq!(dave.xrpc.query("getMessages", &marking).await.unwrap().status, 200);
    // Frank has only written, and nothing of it is kept.
    let (erin, frank) = (app.persona(), app.persona());
    let body = json!({ "groupId": "ac", "cipherSuite": erin.mls.suite_name(), "initialMembers": [frank.did()] });
    let written = erin.xrpc.procedure("createConvo", &body).await.unwrap().string("id").unwrap().to_owned();
    for writer in [&frank, &erin] {
        let message = json!({ "convoId": written, "ciphertext": catbird_client::xrpc::bytes_value(b"x"), "epoch": 0 });
        assert_eq!(writer.xrpc.procedure("sendMessage", &message).await.unwrap().status, 200);
    }
    app.settle().await;
    db.execute("update messages set created_at = created_at - interval '300 days' where convo_id = $1", &[&written])
        .await
        .unwrap();
    sweeps(&app, "messages", 1).await;
    db.batch_execute("update members set last_read_at = last_read_at - interval '500 days'").await.unwrap();
    age(&db, 500).await;
    sweeps(&app, "abandoned", 0).await;
    assert_eq!(column::<i64>(&db, "select count(*) from members where left_at is null").await, [6]);
    // One of them leaves, and after that time the other one is alone.
    let leave = json!({ "convoId": read });
    assert_eq!(carol.xrpc.procedure("leaveConvo", &leave).await.unwrap().status, 200);
    sweeps(&app, "abandoned", 0).await;
    age(&db, 181).await;
    sweeps(&app, "abandoned", 2).await;
    assert_eq!(column::<i64>(&db, "select count(*) from members where left_at is null").await, [4]);
    assert_eq!(opened.len(), 2);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_one_ends_and_goes_in_portions() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let mallory = app.persona();
    let body = json!({ "groupId": "cd", "cipherSuite": mallory.mls.suite_name() });
    let convo = mallory.xrpc.procedure("createConvo", &body).await.unwrap().string("id").unwrap().to_owned();
    let seed =
        "with counted as (update conversations set member_count = 1201, roster_version = 2 where id = $1 returning *)
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, roster_version)
         select id, 'did:x:' || n, 0, 0, 0, roster_version from counted, generate_series(1, 1200) n";
    db.execute(seed, &[&convo]).await.unwrap();
    age(&db, 181).await;
    sweeps(&app, "abandoned", 1_202).await;
    assert_eq!(column::<i64>(&db, "select count(distinct left_at) from members").await, [3], "one transaction each");
    age(&db, 31).await;
    db.batch_execute("update idempotency_records set created_at = created_at - interval '300 days'").await.unwrap();
    sweeps(&app, "abandoned", 1_202).await;
    assert_eq!(tables(&db, &convo).await, [""; 0]);
    app.finish().await;
}
