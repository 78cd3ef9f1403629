//! `admin delete`: members are told, nothing of the content stays, nobody else's cursor is lost, and retention deletes the rows later.

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::bytes_value;
use catbird_server::config::Retention;
use catbird_server::jobs::SweepOutcome;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::json;

use super::{admin, attempt, contents, counts, event, list};
use crate::retention::{KEPT, column, pass};

#[tokio::test(flavor = "multi_thread")]
async fn members_are_told_and_the_content_goes_at_once_and_the_rows_a_month_later() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let mut members = app.conversation(3).await;
    let convo = members[0].convo().unwrap().to_owned();
    let group_id = catbird_client::persona::hex(&members[0].group_id);
    members[0].send("secret").await.unwrap();
    members[0].publish_group_info().await.unwrap();
    app.settle().await;
    // Somebody in another conversation was away for a while.
    let others = app.conversation(1).await;
    let mut away = others[0].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    away.skip().await.unwrap();
    let cursor = away.last_id.clone();
    drop(away);
    members[1].catch_up().await.unwrap();
    members[1].send("another secret").await.unwrap();
    let mut stream = members[2].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    stream.skip().await.unwrap();

    let before = contents(&db).await;
    let planned = counts(&admin(&app.database, &["delete", &group_id, "--dry-run"]).await);
    assert_eq!(contents(&db).await, before, "a dry run changes nothing");
    let done = counts(&admin(&app.database, &["delete", &group_id]).await);
    assert_eq!(done, planned);
    assert_eq!((&done["members"], &done["entries"]), (&json!(3), &json!(3)));
    let told = event(&mut stream, |event| event.name == "removedEvent").await;
    assert_eq!((&told.data["convoId"], &told.data["action"]), (&json!(convo), &json!("left")));
    let content = "select (select count(*) from messages where convo_id = $1 and octet_length(ciphertext) > 0)
                        + (select count(*) from conversation_metadata where convo_id = $1) + (select count(*) from group_infos where convo_id = $1)
                        + (select count(*) from welcome_messages where convo_id = $1 and welcome_id is not null)";
    assert_eq!(db.query_one(content, &[&convo]).await.unwrap().get::<_, i64>(0), 0);
    let write = json!({ "convoId": convo, "ciphertext": bytes_value(b"x"), "epoch": members[0].epoch().unwrap() });
    let refused = members[0].xrpc.procedure("sendMessage", &write).await.unwrap();
    assert_eq!((refused.status, refused.error()), (403, Some("NotMember")), "{refused}");
    let mut resumed =
        others[0].xrpc.follow("streamConvoEvents", &[], cursor.as_deref()).await.unwrap().expect("the cursor is good");
    resumed.skip().await.unwrap();
    assert_eq!(
        counts(&admin(&app.database, &["delete", &convo]).await),
        json!({ "members": 0, "entries": 0, "bytes": 0, "envelopes": 0 })
    );
    let report = catbird_server::check::run(&app.database.config).await.unwrap();
    assert!(report.is_clean(), "{report}");

    // Even where no conversation is ever abandoned.
    db.batch_execute("update conversations set ended_at = ended_at - interval '31 days'").await.unwrap();
    let never = Retention { abandoned: None, ..KEPT };
    assert!(matches!(pass(&app.app.store, never, "abandoned").await, SweepOutcome::Made(1..)));
    assert_eq!(column::<i64>(&db, &format!("select count(*) from messages where convo_id = '{convo}'")).await, [0]);
    let (code, _, errors) = attempt(&app.database, &["delete", &convo]).await;
    assert!(code == Some(2) && errors.contains("no conversation"), "{errors}");
    let runs = list(&app.database, &["audit", "--target", &convo]).await;
    assert!(
        runs.contains(&format!("delete {convo}  {{\"bytes\":")) || runs.contains(&format!("delete {convo}  ")),
        "{runs}"
    );
    app.finish().await;
}

/// Sends until it is no longer a member. Returns the ids of what was accepted.
async fn send_until_removed(member: Persona) -> usize {
    let (mut accepted, convo) = (0, member.convo().unwrap().to_owned());
    loop {
        let body = json!({ "convoId": convo, "ciphertext": bytes_value(random_did().as_bytes()), "epoch": member.epoch().unwrap() });
        let reply = member.xrpc.procedure("sendMessage", &body).await.unwrap();
        match reply.status {
            200 => accepted += 1,
            _ => {
                assert_eq!((reply.status, reply.error()), (403, Some("NotMember")), "{reply}");
                return accepted;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_race_a_deletion_and_leave_nothing_behind() {
    for actors in ["false", "true"] {
        let app = TestApp::with(&[("ENABLE_ACTOR_SYSTEM", actors)]).await;
        let db = app.database.connect().await;
        let members = app.conversation(3).await;
        let convo = members[0].convo().unwrap().to_owned();
        let sending = tokio::spawn(join_all(members.into_iter().map(send_until_removed)));
        // They are at it.
        let sent = format!("select count(*) from messages where convo_id = '{convo}'");
        while column::<i64>(&db, &sent).await[0] < 20 {}
        let done = counts(&admin(&app.database, &["delete", &convo]).await);
        let accepted: usize = sending.await.unwrap().iter().sum();
        assert_eq!(
            (&done["members"], done["entries"].as_u64()),
            (&json!(3), Some(accepted as u64 + 1)),
            "and the commit"
        );
        let left = format!("select count(*) from messages where convo_id = '{convo}' and octet_length(ciphertext) > 0");
        assert_eq!(column::<i64>(&db, &left).await, [0]);
        app.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_conversation_is_deleted_in_portions() {
    let app = TestApp::start().await;
    let db = app.database.connect().await;
    let members = app.conversation(1).await;
    let convo = members[0].convo().unwrap().to_owned();
    db.batch_execute(&format!(
        "update conversations set last_seq = last_seq + 1200, member_count = 1200, roster_version = 2 where id = '{convo}';
         insert into members (convo_id, member_did, joined_seq, joined_epoch, last_read_seq, roster_version)
         select '{convo}', 'did:x:' || n, 0, 0, 0, 2 from generate_series(1, 1199) n;
         insert into messages (convo_id, seq, id, sender_did, message_type, epoch, ciphertext)
         select '{convo}', n, 'id' || n, '{did}', 'app', 0, 'x' from generate_series(1, 1200) n",
        did = members[0].did()
    ))
    .await
    .unwrap();
    let planned = counts(&admin(&app.database, &["delete", &convo, "--dry-run"]).await);
    assert_eq!(planned, json!({ "members": 1_200, "entries": 1_200, "bytes": 1_200, "envelopes": 0 }));
    assert_eq!(counts(&admin(&app.database, &["delete", &convo]).await), planned);
    assert_eq!(
        column::<i64>(&db, "select count(distinct xmin::text) from messages").await,
        [3],
        "one transaction each"
    );
    assert_eq!(column::<i64>(&db, "select count(distinct left_at) from members").await, [3]);
    app.finish().await;
}
