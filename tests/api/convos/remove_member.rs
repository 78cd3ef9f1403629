//! removeMember: the removal of another member in the words of version 1.

use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    a_removal_with_a_commit_advances_the_epoch;
    a_removal_without_a_commit_keeps_the_epoch_and_is_recognised_by_its_key;
    nobody_removes_itself_and_only_the_admin_removes_others;
}
any_serializer! {
    a_reason_is_accepted_and_stored_nowhere;
}

async fn a_removal_with_a_commit_advances_the_epoch(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let target = members[2].did().to_owned();
    let admin = &mut members[0];
    let commit = base64_text(&admin.mls.remove(&admin.group_id, &[&target]).unwrap().commit);
    let asked = json!({ "convoId": convo(admin), "targetDid": target, "commit": commit, "idempotencyKey": "k" });
    let reply = ok(ask(&members[0], "removeMember", &asked).await);
    assert_eq!(reply.body, json!({ "ok": true, "generation": 1, "epochHint": 2, "epoch": 2, "seq": 2 }));
    assert_eq!(ok(ask(&members[0], "removeMember", &asked).await).body, reply.body);
    assert_eq!(roster(&members[0]).await, [members[0].did(), members[1].did()]);
    refused(get(&members[2], "getEpoch", &[("convoId", &convo(&members[2]))]).await, 403, "NotMember");
}

async fn a_removal_without_a_commit_keeps_the_epoch_and_is_recognised_by_its_key(app: &TestApp) {
    let members = app.conversation(3).await;
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": members[2].did(), "idempotencyKey": "k" });
    let reply = ok(ask(&members[0], "removeMember", &asked).await);
    assert_eq!(reply.body, json!({ "ok": true, "epochHint": 1, "epoch": 1, "seq": 1 }));
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[0], "removeMember", &asked).await).body, reply.body);
    let another = with(&asked, json!({ "targetDid": members[1].did() }));
    refused(ask(&members[0], "removeMember", &another).await, 409, "IdempotencyConflict");
    let fresh = with(&asked, json!({ "idempotencyKey": null }));
    refused(ask(&members[0], "removeMember", &fresh).await, 409, "TargetNotMember");
    assert_eq!(contents(app).await, before);
}

async fn nobody_removes_itself_and_only_the_admin_removes_others(app: &TestApp) {
    let members = app.conversation(3).await;
    let before = contents(app).await;
    let asked = |target: usize| json!({ "convoId": convo(&members[0]), "targetDid": members[target].did() });
    refused(ask(&members[0], "removeMember", &asked(0)).await, 400, "InvalidRequest");
    refused(ask(&members[1], "removeMember", &asked(2)).await, 403, "NotAuthorized");
    refused(ask(&app.persona(), "removeMember", &asked(2)).await, 404, "ConvoNotFound");
    assert_eq!(contents(app).await, before);
}

async fn a_reason_is_accepted_and_stored_nowhere(app: &TestApp) {
    let members = app.conversation(3).await;
    let asked = json!({ "convoId": convo(&members[0]), "targetDid": members[2].did(), "reason": "r".repeat(501) });
    refused(ask(&members[0], "removeMember", &asked).await, 400, "InvalidRequest");
    ok(ask(&members[0], "removeMember", &with(&asked, json!({ "reason": "r".repeat(500) }))).await);
    let db = app.database.connect().await;
    let told = "select count(*) from event_stream where payload::text like '%rrrr%'";
    assert_eq!(db.query_one(told, &[]).await.unwrap().get::<_, i64>(0), 0);
}
