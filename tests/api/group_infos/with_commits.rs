//! GroupInfos that come with commits: stored in the commit's transaction or not at all (P2, P14, P15).

use catbird_client::mls::Staged;
use catbird_client::persona::{Persona, hex};
use catbird_client::random_did;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::{exported, fetch};
use crate::harness::*;

either_serializer! {
    p2_every_method_with_a_commit_stores_its_group_info;
    p14_the_group_info_of_a_commit_that_lost_is_never_served;
    p4_a_repeated_commit_does_not_bring_its_group_info_back;
    a_group_info_that_does_not_belong_to_its_commit_is_refused_with_it;
    p13_a_member_that_lost_its_state_is_back_with_two_requests;
    p9_an_external_commit_that_lost_gets_the_group_info_of_the_new_epoch;
}
any_serializer! {
    a_group_info_without_a_commit_is_refused;
    a_conversation_begins_with_its_group_info;
}

/// Makes a commit that changes only keys.
fn key_change(member: &mut Persona) -> Staged {
    member.mls.self_update(&member.group_id).unwrap()
}

/// Returns the body of submitCommit with this GroupInfo.
fn submission(member: &Persona, staged: &Staged, group_info: &[u8]) -> Value {
    json!({ "convoId": convo(member), "commit": base64_text(&staged.commit), "groupInfo": base64_text(group_info) })
}

async fn p2_every_method_with_a_commit_stores_its_group_info(app: &TestApp) {
    let mut members = app.conversation(4).await;
    let (left, removed) = (members.pop().unwrap(), members.pop().unwrap());
    let joiner = app.persona();
    let package = joiner.mls.key_package().unwrap();
    ok(ask(&left, "leaveConvo", &json!({ "convoId": convo(&left) })).await);
    for (n, method) in ["submitCommit", "addMembers", "removeMember", "leaveConvo"].into_iter().enumerate() {
        let Persona { mls, group_id, .. } = &mut members[0];
        let (staged, fields) = match method {
            "addMembers" => (mls.add(group_id, std::slice::from_ref(&package)), json!({ "didList": [joiner.did()] })),
            "removeMember" => (mls.remove(group_id, &[removed.did()]), json!({ "targetDid": removed.did() })),
            "leaveConvo" => (mls.remove(group_id, &[left.did()]), json!({ "targetDid": left.did() })),
            _ => (mls.self_update(group_id), json!({})),
        };
        let staged = staged.unwrap();
        ok(ask(&members[0], method, &with(&submission(&members[0], &staged, &staged.group_info), fields)).await);
        merge(&mut members[0]);
        let served = ok(fetch(&members[1]).await);
        assert_eq!(
            (served.number("epoch").unwrap(), served.bytes("groupInfo").unwrap()),
            (n as u64 + 2, staged.group_info)
        );
    }
}

async fn p14_the_group_info_of_a_commit_that_lost_is_never_served(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let staged: Vec<_> = members.iter_mut().map(key_change).collect();
    let won = submission(&members[0], &staged[0], &staged[0].group_info);
    let lost = submission(&members[1], &staged[1], &staged[1].group_info);
    ok(ask(&members[0], "submitCommit", &won).await);
    let before = contents(app).await;
    refused(ask(&members[1], "submitCommit", &lost).await, 409, "EpochMismatch");
    assert_eq!(contents(app).await, before);
    assert_eq!(ok(fetch(&members[1]).await).bytes("groupInfo").unwrap(), staged[0].group_info);
}

async fn p4_a_repeated_commit_does_not_bring_its_group_info_back(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let staged = key_change(&mut members[0]);
    let body = submission(&members[0], &staged, &staged.group_info);
    let first = ok(ask(&members[0], "submitCommit", &body).await);
    merge(&mut members[0]);
    let next = key_change(&mut members[0]);
    ok(ask(&members[0], "submitCommit", &submission(&members[0], &next, &next.group_info)).await);
    let before = contents(app).await;
    let again = ok(ask(&members[0], "submitCommit", &body).await);
    assert_eq!(landed(&again), landed(&first));
    assert_eq!(contents(app).await, before);
    assert_eq!(ok(fetch(&members[1]).await).bytes("groupInfo").unwrap(), next.group_info);
}

async fn a_group_info_that_does_not_belong_to_its_commit_is_refused_with_it(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let old = exported(&members[0]);
    let staged = key_change(&mut members[0]);
    let of_another = key_change(&mut members[1]).group_info;
    let mut alone = Persona::new(members[0].xrpc.clone());
    alone.create(random_did().as_bytes(), "elsewhere").await.unwrap();
    let elsewhere = key_change(&mut alone).group_info;
    let mut forged = staged.group_info.clone();
    *forged.last_mut().unwrap() ^= 1;
    let before = contents(app).await;
    for (group_info, why) in [
        (&old, "of epoch 1, not of epoch 2"),
        (&of_another, "names another DID"),
        (&elsewhere, "not this conversation's"),
        (&forged, "not signed"),
        (&staged.commit, "another kind of message"),
    ] {
        let reply = ask(&members[0], "submitCommit", &submission(&members[0], &staged, group_info)).await;
        let reply = refused(reply, 400, "InvalidGroupInfo");
        assert!(reply.text.contains(why), "{why}: {reply}");
    }
    assert_eq!(contents(app).await, before);
    ok(ask(&members[0], "submitCommit", &submission(&members[0], &staged, &staged.group_info)).await);
}

/// Makes an external commit with a served GroupInfo, as a client without state.
fn external(device: &mut Persona, group_info: &[u8]) -> Value {
    let entry = device.mls.enter(group_info, device.handshake).unwrap();
    device.group_id.clone_from(&entry.group_id);
    submission(device, &entry.staged, &entry.staged.group_info)
}

/// Returns a client of the same account that knows the conversation and none of its keys.
fn without_state(member: &Persona) -> Persona {
    let mut device = Persona::new(member.xrpc.clone());
    device.convo_id.clone_from(&member.convo_id);
    device
}

async fn p13_a_member_that_lost_its_state_is_back_with_two_requests(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let staged = key_change(&mut members[0]);
    ok(ask(&members[0], "submitCommit", &submission(&members[0], &staged, &staged.group_info)).await);
    merge(&mut members[0]);
    let mut device = without_state(&members[1]);
    let served = ok(fetch(&device).await).bytes("groupInfo").unwrap();
    let body = external(&mut device, &served);
    assert_eq!(landed(&ok(ask(&device, "submitCommit", &body).await)).0, 3);
    merge(&mut device);
    members[0].catch_up().await.unwrap();
    assert_eq!(members[0].epoch_authenticator().unwrap(), device.epoch_authenticator().unwrap());
    // Its commit brought the GroupInfo for the next one.
    let mut another = without_state(&members[2]);
    let served = ok(fetch(&another).await).bytes("groupInfo").unwrap();
    let body = external(&mut another, &served);
    ok(ask(&another, "submitCommit", &body).await);
}

async fn p9_an_external_commit_that_lost_gets_the_group_info_of_the_new_epoch(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut device = without_state(&members[1]);
    let late = external(&mut device, &exported(&members[0]));
    // There is none of the new epoch yet.
    let staged = key_change(&mut members[0]);
    let body = with(&submission(&members[0], &staged, &staged.group_info), json!({ "groupInfo": null }));
    ok(ask(&members[0], "submitCommit", &body).await);
    merge(&mut members[0]);
    let lost = refused(ask(&device, "submitCommit", &late).await, 409, "EpochMismatch");
    assert!(lost.body["groupInfo"].is_null(), "{lost}");
    let stored = exported(&members[0]);
    ok(ask(&members[0], "updateGroupInfo", &super::update_of(&members[0], &stored)).await);
    let lost = refused(ask(&device, "submitCommit", &late).await, 409, "EpochMismatch");
    assert_eq!((lost.bytes("groupInfo").unwrap(), &lost.body["serverEpoch"]), (stored, &json!(2)));
    let stale = ok(ask(&device, "submitCommit", &with(&late, json!({ "conflict": "result" }))).await);
    assert_eq!(stale.body["groupInfo"], lost.body["groupInfo"]);
    // A member that has the state receives the commits alone.
    let ordinary = key_change(&mut members[1]);
    let ordinary = submission(&members[1], &ordinary, &ordinary.group_info);
    let commits = refused(ask(&members[1], "submitCommit", &ordinary).await, 409, "EpochMismatch");
    assert!(commits.body["groupInfo"].is_null(), "{commits}");
    let mut device = without_state(&members[1]);
    let body = external(&mut device, &lost.bytes("groupInfo").unwrap());
    ok(ask(&device, "submitCommit", &body).await);
}

async fn a_group_info_without_a_commit_is_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    let body = json!({ "convoId": convo(&members[0]), "groupInfo": base64_text(&exported(&members[0])) });
    for (method, fields) in [
        ("addMembers", json!({ "didList": [random_did()] })),
        ("leaveConvo", json!({})),
        ("removeMember", json!({ "targetDid": members[1].did() })),
    ] {
        let reply = refused(ask(&members[0], method, &with(&body, fields)).await, 400, "InvalidGroupInfo");
        assert!(reply.text.contains("updateGroupInfo"), "{reply}");
    }
    assert_eq!(contents(app).await, before);
}

async fn a_conversation_begins_with_its_group_info(app: &TestApp) {
    let mut creator = app.persona();
    let (group_id, another) = (random_did().into_bytes(), random_did().into_bytes());
    for id in [&group_id, &another] {
        creator.mls.create_group(id, creator.handshake).unwrap();
    }
    let info = creator.mls.group_info(&group_id).unwrap();
    let body = json!({
        "groupId": hex(&group_id), "cipherSuite": creator.mls.suite_name(), "groupInfo": base64_text(&info), "idempotencyKey": "k",
    });
    let before = contents(app).await;
    let elsewhere = base64_text(&creator.mls.group_info(&another).unwrap());
    for (changes, why) in [
        (json!({ "currentEpoch": 1 }), "of epoch 0, not of epoch 1"),
        (json!({ "groupInfo": elsewhere }), "another group than groupId"),
        (json!({ "cipherSuite": "MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519" }), "suite is not the group's"),
    ] {
        let reply = refused(ask(&creator, "createConvo", &with(&body, changes)).await, 400, "InvalidGroupInfo");
        assert!(reply.text.contains(why), "{why}: {reply}");
    }
    let stranger = app.persona();
    refused(ask(&stranger, "createConvo", &body).await, 400, "InvalidGroupInfo");
    assert_eq!(contents(app).await, before);
    let created = ok(ask(&creator, "createConvo", &body).await);
    let parameters = [("convoId", created.string("id").unwrap())];
    let served = ok(get(&creator, "getGroupInfo", &parameters).await);
    assert_eq!((served.number("epoch").unwrap(), served.bytes("groupInfo").unwrap()), (0, info));
    assert_eq!(ok(ask(&creator, "createConvo", &body).await).body, created.body);
}
