//! `conflict`: a caller that asks for a result gets a lost epoch in a 200 with the fields of the error; all other
//! callers get the error.

use std::collections::BTreeSet;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, base64_text, decode_bytes};
use catbird_testkit::app::TestApp;
use serde_json::{Map, Value, json};

use crate::harness::*;

either_serializer! {
    p9_a_conflict_result_is_enough_to_rebase;
    callers_that_do_not_ask_for_a_result_get_errors;
    the_same_key_gives_the_same_result_in_either_form;
    a_member_that_cannot_catch_up_learns_it_from_a_result_too;
    any_other_error_stays_one;
}

/// A message and two commits in the member's epoch; the member keeps none of them.
fn requests(member: &mut Persona) -> [(&'static str, Value); 3] {
    let staged = member.mls.self_update(&member.group_id).unwrap();
    member.mls.discard_pending(&member.group_id).unwrap();
    let (id, commit) = (convo(member), base64_text(&staged.commit));
    [
        ("sendMessage", message(member, b"in this epoch")),
        ("addMembers", json!({ "convoId": id, "didList": ["did:plc:somebody"], "commit": commit })),
        ("leaveConvo", json!({ "convoId": id, "targetDid": member.did(), "commit": commit })),
    ]
}

fn asking(body: &Value) -> Value {
    with(body, json!({ "conflict": "result" }))
}

fn is(reply: &Reply, result: &str) -> bool {
    reply.body["$type"] == json!(format!("{}#{result}", reply.nsid))
}

/// Fields of an error that a result has as well.
fn facts(refusal: &Reply) -> Map<String, Value> {
    let mut fields = refusal.body.as_object().unwrap().clone();
    fields.remove("requestId");
    fields["message"] = json!(refusal.sentence());
    fields
}

async fn p9_a_conflict_result_is_enough_to_rebase(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let (newcomer, late) = (app.published_persona().await, app.persona());
    let requests = requests(&mut members[1]);
    members[0].add(&[newcomer.did()]).await.unwrap();
    let before = contents(app).await;
    for (method, body) in &requests {
        let told = ok(ask(&members[1], method, &asking(body)).await);
        assert!(is(&told, "stale"), "{told}");
        let mut fields = told.body.as_object().unwrap().clone();
        fields.remove("$type");
        let refusal = refused(ask(&members[1], method, body).await, 409, "EpochMismatch");
        assert_eq!(fields, facts(&refusal), "{method}");
        assert_eq!((&told.body["serverEpoch"], &told.body["reason"]), (&json!(2), &json!("stale")), "{told}");
        assert_eq!((&told.body["moreMissing"], told.list("missing").unwrap().len()), (&json!(false), 1), "{told}");
    }
    assert_eq!(contents(app).await, before);

    // It loses with a commit, applies the commits of the result, and wins with the next one.
    let bob = &mut members[1];
    let lost = offer(bob, &[&late]);
    let told = ok(ask(bob, "addMembers", &asking(&lost.body)).await);
    discard(bob);
    for commit in told.list("missing").unwrap() {
        bob.mls.apply(&bob.group_id, &decode_bytes(&commit["commitData"]).unwrap()).unwrap();
    }
    let again = offer(bob, &[&late]);
    let reply = ok(ask(bob, "addMembers", &asking(&again.body)).await);
    assert!(is(&reply, "accepted"), "{reply}");
    merge(bob);
    assert_eq!(reply.number("newEpoch").unwrap(), bob.epoch().unwrap());
}

async fn callers_that_do_not_ask_for_a_result_get_errors(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let keys = |reply: &Reply| reply.body.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    for conflict in [None, Some(Value::Null), Some(json!("error"))] {
        let ask_with = async |member: &Persona, method: &str, mut body: Value| {
            body.as_object_mut().unwrap().extend(conflict.clone().map(|conflict| ("conflict".to_owned(), conflict)));
            ok(ask(member, method, &body).await)
        };
        let sent = ask_with(&members[0], "sendMessage", message(&members[0], b"hello")).await;
        assert_eq!(keys(&sent), ["epoch", "messageId", "receivedAt", "seq"].map(str::to_owned).into());
        let landed = ["epoch", "generation", "newEpoch", "seq", "success"].map(str::to_owned).into();
        let newcomer = app.persona();
        let addition = offer(&mut members[0], &[&newcomer]);
        let added = ask_with(&members[0], "addMembers", addition.body).await;
        assert_eq!(keys(&added), landed);
        merge(&mut members[0]);
        let leaver = members.pop().unwrap();
        let left = ask_with(&leaver, "leaveConvo", json!({ "convoId": convo(&leaver) })).await;
        assert_eq!(keys(&left), ["epoch", "newEpoch", "seq", "success"].map(str::to_owned).into());
    }
    for wrong in [json!("results"), json!(true), json!(["result"])] {
        let body = with(&message(&members[0], b"hello"), json!({ "conflict": wrong }));
        refused(ask(&members[0], "sendMessage", &body).await, 400, "InvalidRequest");
    }
}

async fn the_same_key_gives_the_same_result_in_either_form(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let [(_, message), ..] = requests(&mut members[0]);
    let addition = offer(&mut members[0], &[&app.persona()]);
    for (method, body) in [("sendMessage", message), ("addMembers", addition.body)] {
        let body = with(&body, json!({ "idempotencyKey": "once" }));
        let plain = ok(ask(&members[0], method, &body).await).body;
        let mut typed = ok(ask(&members[0], method, &asking(&body)).await);
        assert!(is(&typed, "accepted"), "{typed}");
        typed.body.as_object_mut().unwrap().remove("$type");
        assert_eq!(typed.body, plain, "{method}");
        assert_eq!(ok(ask(&members[0], method, &body).await).body, plain, "{method}");
    }
}

async fn a_member_that_cannot_catch_up_learns_it_from_a_result_too(app: &TestApp) {
    let mut members = app.conversation(2).await;
    // A commit that was merged and never sent.
    let Persona { mls, group_id, .. } = &mut members[1];
    mls.self_update(group_id).unwrap();
    mls.merge_pending(group_id).unwrap();
    for (method, body) in requests(&mut members[1]) {
        for (says, error) in [(Value::Null, "EpochAhead"), (json!("another"), "ServerRolledBack")] {
            let body = with(&asking(&body), json!({ "serverIncarnation": says }));
            let told = ok(ask(&members[1], method, &body).await);
            assert!(is(&told, "stale"), "{told}");
            let found = (&told.body["error"], &told.body["recovery"], &told.body["serverEpoch"]);
            assert_eq!(found, (&json!(error), &json!("rejoin"), &json!(1)), "{told}");
        }
    }
}

async fn any_other_error_stays_one(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let stranger = app.persona();
    let requests = requests(&mut members[1]);
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    // P7: strangers learn nothing in either form.
    for (method, body) in &requests {
        refused(ask(&stranger, method, &asking(body)).await, 404, "ConvoNotFound");
    }
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    for (method, body) in &requests {
        refused(ask(&members[1], method, &asking(body)).await, 403, "NotMember");
    }
    let again = asking(&json!({ "convoId": convo(&members[0]), "didList": [members[2].did()] }));
    refused(ask(&members[0], "addMembers", &again).await, 409, "AlreadyMember");
}
