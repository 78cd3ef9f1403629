//! readdition and rejoin: a member that lost its state asks the others to add it again, and they hear of it once.

use catbird_client::persona::{Persona, sha256_hex, unique};
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use futures_util::future::join_all;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    p13_a_member_that_lost_its_state_is_added_again_with_the_package_of_its_request;
    requests_within_ten_seconds_are_one_event_and_a_new_membership_begins_anew;
}
any_serializer! {
    former_members_and_strangers_cannot_ask;
    the_only_member_asks_nobody;
    a_key_package_that_cannot_be_used_is_refused;
}

fn ask_for_readdition(member: &Persona) -> serde_json::Value {
    json!({ "convoId": convo(member) })
}

/// Returns the number of requests that the members were told of.
async fn told(app: &TestApp) -> i64 {
    let db = app.database.connect().await;
    let count = "select count(*) from event_stream where event_type = 'readditionRequested'";
    db.query_one(count, &[]).await.unwrap().get(0)
}

async fn p13_a_member_that_lost_its_state_is_added_again_with_the_package_of_its_request(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let mut events = members[0].xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    // Bob's device is gone with all its keys. His account is still there.
    let mut lost = Persona::new(members[1].xrpc.clone());
    let package = lost.mls.key_package().unwrap();
    let body = json!({ "convoId": convo(&members[1]), "keyPackage": base64_text(&package), "reason": "new phone" });
    let reply = ok(ask(&lost, "rejoin", &body).await);
    assert_eq!(reply.body["pending"], true, "{reply}");
    let event = loop {
        let event = events.next().await.unwrap().unwrap();
        if event.name == "readditionRequestedEvent" {
            break event;
        }
    };
    assert_eq!(
        (&event.data["userDid"], &event.data["keyPackage"], &event.data["keyPackageHash"], &event.data["reason"]),
        (&json!(lost.did()), &json!(base64_text(&package)), &json!(sha256_hex(&package)), &json!("new phone"))
    );
    assert_eq!(event.data["requestId"], reply.body["requestId"]);
    // Until there is a commit that removes and adds him at once, the admin does both.
    let did = lost.did().to_owned();
    members[0].remove(&did).await.unwrap();
    let addition = offer_with(&mut members[0], &[&lost], std::slice::from_ref(&package));
    let asked =
        with(&addition.body, json!({ "keyPackageHashes": hashes(&[&lost], &[package]), "idempotencyKey": unique() }));
    ok(ask(&members[0], "addMembers", &asked).await);
    merge(&mut members[0]);
    lost.join(&convo(&members[0])).await.unwrap();
    assert_eq!(lost.epoch_authenticator().unwrap(), members[0].epoch_authenticator().unwrap());
}

async fn requests_within_ten_seconds_are_one_event_and_a_new_membership_begins_anew(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let asked = ask_for_readdition(&members[1]);
    let replies = join_all((0..20).map(|_| ask(&members[1], "readdition", &asked))).await;
    for reply in replies {
        assert_eq!(ok(reply).body, json!({ "requested": true, "activeMembers": 2 }));
    }
    assert_eq!(told(app).await, 1);
    ok(ask(&members[2], "readdition", &asked).await);
    assert_eq!(told(app).await, 2, "another member's request is another event");
    sql(app, "update readdition_requests set requested_at = now() - interval '11 seconds'", &[]).await;
    ok(ask(&members[1], "readdition", &asked).await);
    assert_eq!(told(app).await, 3);
    // It was added again, and has lost its state again.
    let did = members[1].did().to_owned();
    members[1].publish_key_packages(1).await.unwrap();
    members[0].remove(&did).await.unwrap();
    members[0].add(&[&did]).await.unwrap();
    ok(ask(&members[1], "readdition", &asked).await);
    assert_eq!(told(app).await, 4);
}

async fn former_members_and_strangers_cannot_ask(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let former = members.remove(2);
    members[0].remove(former.did()).await.unwrap();
    let before = contents(app).await;
    let asked = ask_for_readdition(&members[0]);
    for (caller, error, status) in [(&former, "NotMember", 403), (&app.persona(), "ConvoNotFound", 404)] {
        refused(ask(caller, "readdition", &asked).await, status, error);
        let package = base64_text(&caller.mls.key_package().unwrap());
        let rejoin = with(&asked, json!({ "keyPackage": package }));
        refused(ask(caller, "rejoin", &rejoin).await, status, error);
    }
    assert_eq!(contents(app).await, before);
}

async fn the_only_member_asks_nobody(app: &TestApp) {
    let alone = app.conversation(1).await.remove(0);
    let reply = ok(ask(&alone, "readdition", &ask_for_readdition(&alone)).await);
    assert_eq!(reply.body, json!({ "requested": false, "activeMembers": 0 }));
    assert_eq!(told(app).await, 0);
}

async fn a_key_package_that_cannot_be_used_is_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    let rejoin = |package: &[u8]| json!({ "convoId": convo(&members[1]), "keyPackage": base64_text(package) });
    let others = members[0].mls.key_package().unwrap();
    for package in [&others[..], b"garbage", &[0; 20_000], &members[1].mls.expired_key_package().unwrap()] {
        refused(ask(&members[1], "rejoin", &rejoin(package)).await, 400, "InvalidKeyPackage");
    }
    assert_eq!(contents(app).await, before);
}
