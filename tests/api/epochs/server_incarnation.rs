//! `serverIncarnation`: the id of the database's incarnation, and what a caller in a lost epoch learns from it.

use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    a_caller_in_a_lost_epoch_is_told_so;
}
any_serializer! {
    replies_and_events_name_the_incarnation;
    an_incarnation_is_a_short_text;
}

/// Returns the id in getEpoch.
async fn named(who: &Persona) -> String {
    let reply = ok(get(who, "getEpoch", &[("convoId", &convo(who))]).await);
    reply.string("serverIncarnation").unwrap().to_owned()
}

/// Starts another incarnation, as after a crash; the next writer begins it.
async fn restart(app: &TestApp, who: &mut Persona) {
    assert_eq!(sql(app, "delete from incarnation_witness", &[]).await, 1);
    who.send("the first of an incarnation").await.unwrap();
}

async fn replies_and_events_name_the_incarnation(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut stream = members[1].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
        stream.skip().await.unwrap();
        let name = named(&members[0]).await;
        let id = convo(&members[1]);
        for (method, more) in [("getMessages", ("sinceSeq", "0")), ("getCommits", ("fromEpoch", "0"))] {
            let page = ok(get(&members[1], method, &[("convoId", &id), more]).await);
            assert_eq!(page.string("serverIncarnation").unwrap(), name, "{page}");
        }
        members[0].send("hello").await.unwrap();
        let event = stream.next().await.unwrap().unwrap();
        assert_eq!(event.data["serverIncarnation"], json!(name), "{event:?}");
        names.push(name);
        restart(app, &mut members[0]).await;
        // The event that ends the stream has a cursor of the incarnation before, and names none.
        while let Some(event) = stream.next().await.unwrap() {
            let is_last = event.data["info"] == "reset";
            assert!(is_last == event.data["serverIncarnation"].is_null(), "{event:?}");
        }
    }
    assert_ne!(names[0], names[1]);
}

/// Sends a message and two commits in the member's epoch, with this incarnation.
async fn ask_all(member: &mut Persona, says: Option<&str>) -> Vec<Reply> {
    let staged = member.mls.self_update(&member.group_id).unwrap();
    member.mls.discard_pending(&member.group_id).unwrap();
    let (id, commit) = (convo(member), base64_text(&staged.commit));
    let mut asked = [
        ("sendMessage", message(member, b"from an epoch that is lost")),
        ("addMembers", json!({ "convoId": id, "didList": [random_did()], "commit": commit })),
        ("leaveConvo", json!({ "convoId": id, "targetDid": member.did(), "commit": commit })),
    ];
    let mut replies = Vec::new();
    for (method, body) in &mut asked {
        if let Some(says) = says {
            body["serverIncarnation"] = json!(says);
        }
        replies.push(ask(member, method, body).await);
    }
    replies
}

async fn a_caller_in_a_lost_epoch_is_told_so(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let before = named(&members[1]).await;
    // The server accepted this commit, and the database has lost it.
    let Persona { mls, group_id, .. } = &mut members[1];
    mls.self_update(group_id).unwrap();
    mls.merge_pending(group_id).unwrap();
    restart(app, &mut members[0]).await;
    let present = named(&members[0]).await;
    let epoch = members[0].epoch().unwrap();
    for (says, error) in [
        (None, "EpochAhead"),
        (Some(&*present), "EpochAhead"),
        (Some(&*before), "ServerRolledBack"),
        (Some("of a time that is lost"), "ServerRolledBack"),
    ] {
        for reply in ask_all(&mut members[1], says).await {
            let reply = refused(reply, 409, error);
            assert_eq!(reply.number("serverEpoch").unwrap(), epoch, "{reply}");
            assert_eq!(reply.body["serverIncarnation"], json!(present), "{reply}");
            let reason = if error == "EpochAhead" { json!("future") } else { Value::Null };
            assert_eq!((&reply.body["recovery"], &reply.body["reason"]), (&json!("rejoin"), &reason), "{reply}");
        }
    }
    // A member that is behind gets the missing commits, whatever incarnation it has seen.
    for _ in 0..2 {
        members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    }
    for reply in ask_all(&mut members[1], Some(&before)).await {
        let reply = refused(reply, 409, "EpochMismatch");
        assert_eq!((&reply.body["reason"], reply.list("missing").unwrap().len()), (&json!("stale"), 1), "{reply}");
    }
    // A non-member learns nothing from it.
    let mut body = message(&members[1], b"a stranger's");
    body["serverIncarnation"] = json!(before);
    refused(ask(&app.persona(), "sendMessage", &body).await, 404, "ConvoNotFound");
}

async fn an_incarnation_is_a_short_text(app: &TestApp) {
    let members = app.conversation(1).await;
    let mut body = message(&members[0], b"hello");
    for wrong in [json!("x".repeat(65)), json!(7)] {
        body["serverIncarnation"] = wrong;
        refused(ask(&members[0], "sendMessage", &body).await, 400, "InvalidRequest");
    }
    body["serverIncarnation"] = json!("x".repeat(64));
    ok(ask(&members[0], "sendMessage", &body).await);
}
