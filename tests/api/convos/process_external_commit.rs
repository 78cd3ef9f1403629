//! processExternalCommit: a member that has lost everything but its account joins its group by itself, and nobody joins as another person.

use catbird_client::mls::Handshake;
use catbird_client::persona::Persona;
use catbird_client::random_did;
use catbird_client::xrpc::{Reply, base64_text};
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::harness::*;

either_serializer! {
    p13_a_member_that_lost_everything_comes_back_by_itself;
    p4_an_external_commit_is_known_by_its_bytes;
    p1_the_loser_of_an_epoch_gets_the_usual_conflict;
    p10_one_device_comes_back_once_in_a_minute_and_a_conversation_sees_ten;
    p10_an_external_commit_without_room_waits_for_no_writer;
}
any_serializer! {
    p15_an_external_commit_joins_the_caller_and_nobody_else;
    former_members_and_strangers_cannot_come_back;
    a_member_that_was_only_named_is_in_the_group_afterwards;
    an_external_commit_changes_no_roster with ("EXTERNAL_COMMIT_SECONDS", "0");
    limits_of_external_commits_can_be_off with ("EXTERNAL_COMMIT_SECONDS", "0");
}

/// Makes the member's GroupInfo of the present epoch.
fn group_info(member: &Persona) -> Vec<u8> {
    member.mls.group_info(&member.group_id).unwrap()
}

/// Creates a client of this account that has nothing else.
fn bare(member: &Persona) -> Persona {
    Persona::new(member.xrpc.clone())
}

/// Makes an external commit with a GroupInfo, and its request.
fn enter(device: &mut Persona, convo: &str, group_info: &[u8]) -> Value {
    let entry = device.mls.enter(group_info, Handshake::default()).unwrap();
    device.group_id = entry.group_id;
    json!({
        "convoId": convo, "externalCommit": base64_text(&entry.staged.commit),
        "groupInfo": base64_text(&entry.staged.group_info),
    })
}

async fn process(device: &Persona, body: &Value) -> Reply {
    ask(device, "processExternalCommit", body).await
}

/// Takes over the group after the commit was accepted.
fn entered(device: &mut Persona, convo: &str, reply: &Reply) {
    merge(device);
    (device.convo_id, device.last_seq) = (Some(convo.to_owned()), landed(reply).1);
}

async fn p13_a_member_that_lost_everything_comes_back_by_itself(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let id = convo(&members[0]);
    for member in &mut members {
        member.catch_up().await.unwrap();
    }
    let stored = json!({
        "convoId": id, "groupInfo": base64_text(&group_info(&members[0])), "epoch": members[0].epoch().unwrap(),
    });
    ok(ask(&members[0], "updateGroupInfo", &stored).await);
    // No other member is online. Each external commit brings the GroupInfo for the next one.
    for method in ["processExternalCommit", "submitCommit"] {
        let mut lost = bare(&members[1]);
        let info = ok(get(&lost, "getGroupInfo", &[("convoId", &id)]).await).bytes("groupInfo").unwrap();
        let mut body = enter(&mut lost, &id, &info);
        if method == "submitCommit" {
            body = with(&body, json!({ "commit": body["externalCommit"], "externalCommit": null }));
        }
        let before = members[0].epoch().unwrap();
        let reply = ok(ask(&lost, method, &body).await);
        assert_eq!((reply.number("epoch").unwrap(), reply.number("newEpoch").unwrap()), (before + 1, before + 1));
        entered(&mut lost, &id, &reply);
        members[1] = lost;
        members[1].send("I am back").await.unwrap();
        for n in [0, 2] {
            assert_eq!(members[n].catch_up().await.unwrap(), ["I am back"]);
            assert_eq!(members[n].epoch_authenticator().unwrap(), members[1].epoch_authenticator().unwrap());
        }
        // The roster is as it was, and the member sees what it saw.
        assert_eq!(roster(&members[0]).await.len(), 3);
        let log = ok(get(&members[1], "getMessages", &[("convoId", &id), ("peek", "true")]).await);
        assert_eq!(log.list("messages").unwrap()[0]["seq"], 2, "the one after its join");
        sql(app, "delete from external_commits", &[]).await;
    }
}

async fn p4_an_external_commit_is_known_by_its_bytes(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    let mut lost = bare(&members[1]);
    let body = enter(&mut lost, &id, &group_info(&members[0]));
    let replies = join_all((0..10).map(|_| process(&lost, &body))).await;
    let first = ok(replies[0].clone());
    for reply in replies {
        assert_eq!(ok(reply).body, first.body);
    }
    let before = contents(app).await;
    assert_eq!(ok(process(&lost, &body).await).body, first.body);
    assert_eq!(contents(app).await, before);
}

async fn p1_the_loser_of_an_epoch_gets_the_usual_conflict(app: &TestApp) {
    let members = app.conversation(6).await;
    let id = convo(&members[0]);
    let info = group_info(&members[0]);
    let mut devices: Vec<Persona> = members[1..].iter().map(bare).collect();
    let bodies: Vec<Value> = devices.iter_mut().map(|device| enter(device, &id, &info)).collect();
    let replies = join_all(devices.iter().zip(&bodies).map(|(device, body)| process(device, body))).await;
    assert_eq!(replies.iter().filter(|reply| reply.is_ok()).count(), 1);
    for reply in replies.into_iter().filter(|reply| !reply.is_ok()) {
        let reply = refused(reply, 409, "EpochMismatch");
        assert_eq!(reply.list("missing").unwrap().len(), 1, "{reply}");
    }
    let asked = with(&bodies[0], json!({ "conflict": "result", "idempotencyKey": "k" }));
    let reply = ok(process(&devices[0], &asked).await);
    assert!(reply.body["$type"].as_str().unwrap().starts_with("blue.catbird.mls.processExternalCommit#"), "{reply}");
}

async fn p10_one_device_comes_back_once_in_a_minute_and_a_conversation_sees_ten(app: &TestApp) {
    let mut members = app.conversation(13).await;
    let id = convo(&members[0]);
    for n in 1..=11 {
        let mut lost = bare(&members[n]);
        let body = enter(&mut lost, &id, &group_info(&members[0]));
        if n == 11 {
            let before = contents(app).await;
            let reply = refused(process(&lost, &body).await, 429, "RateLimitExceeded");
            let wait = reply.number("retryAfterMs").unwrap();
            assert!((30_000..=70_000).contains(&wait), "{reply}");
            assert_eq!(contents(app).await, before);
            // Another wait for each, and other commits are not counted.
            let waits = join_all((0..8).map(|_| process(&lost, &body))).await;
            let waits: std::collections::BTreeSet<u64> =
                waits.iter().map(|reply| reply.number("retryAfterMs").unwrap() / 100).collect();
            assert!(waits.len() > 1, "{waits:?}");
            let newcomer = app.published_persona().await;
            members[0].add(&[newcomer.did()]).await.unwrap();
            // A minute later there is room again.
            sql(app, "update external_commits set accepted_at = accepted_at - interval '60 seconds'", &[]).await;
            let mut lost = bare(&members[n]);
            let body = enter(&mut lost, &id, &group_info(&members[0]));
            ok(process(&lost, &body).await);
            break;
        }
        ok(process(&lost, &body).await);
        members[0].catch_up().await.unwrap();
    }
    // The same device again, in a conversation that has room.
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    let mut admin = members.into_iter();
    let (mut admin, other) = (admin.next().unwrap(), admin.next().unwrap());
    let mut lost = bare(&other);
    let body = enter(&mut lost, &id, &group_info(&admin));
    ok(process(&lost, &body).await);
    admin.catch_up().await.unwrap();
    let mut again = bare(&other);
    let body = enter(&mut again, &id, &group_info(&admin));
    let reply = refused(process(&again, &body).await, 429, "RateLimitExceeded");
    assert!(reply.number("retryAfterMs").unwrap() >= 50_000, "{reply}");
}

async fn p10_an_external_commit_without_room_waits_for_no_writer(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    let mut lost = bare(&members[1]);
    let body = enter(&mut lost, &id, &group_info(&members[0]));
    let first = ok(process(&lost, &body).await);
    members[0].catch_up().await.unwrap();
    let mut again = bare(&members[1]);
    let without_room = enter(&mut again, &id, &group_info(&members[0]));
    let db = app.database.connect().await;
    let writing = format!(
        "begin; select from conversations where id = '{id}' for update; select pg_advisory_xact_lock(hashtextextended('{id}', 0))"
    );
    db.batch_execute(&writing).await.unwrap();
    refused(process(&again, &without_room).await, 429, "RateLimitExceeded");
    db.batch_execute("rollback").await.unwrap();
    // What was accepted is known, with or without room.
    assert_eq!(ok(process(&lost, &body).await).body, first.body);
}

async fn p15_an_external_commit_joins_the_caller_and_nobody_else(app: &TestApp) {
    let members = app.conversation(3).await;
    let id = convo(&members[0]);
    let info = group_info(&members[0]);
    // Mallory is a member, and makes the commit of a client that says it is Bob.
    let mut bob = bare(&members[1]);
    let body = enter(&mut bob, &id, &info);
    let before = contents(app).await;
    let mallory = &members[2];
    let reply = refused(process(mallory, &body).await, 400, "InvalidCommit");
    assert!(reply.body["message"].as_str().unwrap().contains("another DID"), "{reply}");
    let as_commit = json!({ "convoId": id, "commit": body["externalCommit"] });
    refused(ask(mallory, "submitCommit", &as_commit).await, 400, "InvalidCommit");
    // A commit of a member is none from outside.
    let mut admin = members.into_iter().next().unwrap();
    let staged = admin.mls.self_update(&admin.group_id.clone()).unwrap();
    let inside = json!({ "convoId": id, "externalCommit": base64_text(&staged.commit) });
    refused(process(&admin, &inside).await, 400, "InvalidCommit");
    assert_eq!(contents(app).await, before);
}

async fn former_members_and_strangers_cannot_come_back(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let id = convo(&members[0]);
    let former = members.remove(2);
    members[0].remove(former.did()).await.unwrap();
    let info = group_info(&members[0]);
    let before = contents(app).await;
    for (caller, status, error) in [(&former, 403, "NotMember"), (&app.persona(), 404, "ConvoNotFound")] {
        let mut device = bare(caller);
        let body = enter(&mut device, &id, &info);
        refused(process(&device, &body).await, status, error);
        refused(
            ask(&device, "submitCommit", &json!({ "convoId": id, "commit": body["externalCommit"] })).await,
            status,
            error,
        );
    }
    assert_eq!(contents(app).await, before);
}

async fn a_member_that_was_only_named_is_in_the_group_afterwards(app: &TestApp) {
    let (mut admin, mut named) = (app.persona(), app.published_persona().await);
    admin.create(random_did().as_bytes(), "test").await.unwrap();
    let id = convo(&admin);
    ok(ask(&admin, "addMembers", &json!({ "convoId": id, "didList": [named.did()] })).await);
    let body = enter(&mut named, &id, &group_info(&admin));
    let reply = ok(process(&named, &body).await);
    entered(&mut named, &id, &reply);
    admin.catch_up().await.unwrap();
    assert_eq!(admin.epoch_authenticator().unwrap(), named.epoch_authenticator().unwrap());
    // A commit brings a named member in once, and this one is in.
    let body = offer(&mut admin, &[&app.persona()]).body;
    let asked = with(&body, json!({ "didList": [named.did()] }));
    refused(ask(&admin, "addMembers", &asked).await, 409, "AlreadyMember");
}

async fn an_external_commit_changes_no_roster(app: &TestApp) {
    let members = app.conversation(3).await;
    let id = convo(&members[0]);
    let mut lost = bare(&members[1]);
    let body = enter(&mut lost, &id, &group_info(&members[0]));
    let before = contents(app).await;
    let commit = json!({ "convoId": id, "commit": body["externalCommit"] });
    for more in [json!({ "addedDids": [random_did()] }), json!({ "removedDids": [members[2].did()] })] {
        refused(ask(&lost, "submitCommit", &with(&commit, more)).await, 400, "InvalidCommit");
    }
    refused(ask(&lost, "leaveConvo", &commit).await, 400, "InvalidCommit");
    assert_eq!(contents(app).await, before);
}

async fn limits_of_external_commits_can_be_off(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let id = convo(&members[0]);
    for _ in 0..3 {
        let mut lost = bare(&members[1]);
        let body = enter(&mut lost, &id, &group_info(&members[0]));
        ok(process(&lost, &body).await);
        members[0].catch_up().await.unwrap();
    }
}
