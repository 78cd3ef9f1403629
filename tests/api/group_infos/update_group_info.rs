//! updateGroupInfo: what a member may store, and for which epoch (P14, P15).

use catbird_client::persona::Persona;
use catbird_client::xrpc::base64_text;
use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{exported, fetch, update, update_of};
use crate::harness::*;

either_serializer! {
    the_newest_group_info_of_an_epoch_is_served;
    p14_a_group_info_of_an_old_epoch_is_refused_with_what_its_sender_lacks;
    a_group_info_of_an_epoch_that_does_not_exist_yet_is_refused;
}
any_serializer! {
    p15_a_group_info_that_the_caller_has_not_signed_is_refused;
    a_group_info_of_another_group_is_refused;
    a_forged_or_incomplete_group_info_is_refused;
    a_removed_member_stores_nothing;
    bytes_in_every_spelling_framed_and_bare_are_accepted;
    framing_mode_checks_group_and_epoch_only with ("MLS_VALIDATION", "framing");
}

async fn the_newest_group_info_of_an_epoch_is_served(app: &TestApp) {
    let members = app.conversation(2).await;
    for member in [&members[0], &members[1], &members[0]] {
        let info = exported(member);
        let stored = ok(ask(member, "updateGroupInfo", &update_of(member, &info)).await);
        assert_eq!(stored.body, json!({ "updated": true, "epoch": 1 }));
        assert_eq!(ok(fetch(&members[1]).await).bytes("groupInfo").unwrap(), info);
    }
    let stored = app.database.connect().await.query("select signer_did from group_infos", &[]).await.unwrap();
    let signers: Vec<&str> = stored.iter().map(|row| row.get(0)).collect();
    assert_eq!(signers, [members[0].did()]);
}

async fn p14_a_group_info_of_an_old_epoch_is_refused_with_what_its_sender_lacks(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let old = update_of(&members[1], &exported(&members[1]));
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    ok(update(&members[0]).await);
    let before = contents(app).await;
    let stale = refused(ask(&members[1], "updateGroupInfo", &old).await, 409, "EpochMismatch");
    assert_eq!((&stale.body["serverEpoch"], stale.list("missing").unwrap().len()), (&json!(2), 1), "{stale}");
    assert_eq!(contents(app).await, before);
    assert_eq!(ok(fetch(&members[1]).await).number("epoch").unwrap(), 2);
}

async fn a_group_info_of_an_epoch_that_does_not_exist_yet_is_refused(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let Persona { mls, group_id, .. } = &mut members[0];
    mls.self_update(group_id).unwrap();
    merge(&mut members[0]);
    let before = contents(app).await;
    refused(update(&members[0]).await, 409, "EpochAhead");
    assert_eq!(contents(app).await, before);
}

async fn p15_a_group_info_that_the_caller_has_not_signed_is_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    let of_another = update_of(&members[1], &exported(&members[0]));
    let reply = refused(ask(&members[1], "updateGroupInfo", &of_another).await, 400, "InvalidGroupInfo");
    assert!(reply.text.contains("names another DID"), "{reply}");
    assert_eq!(contents(app).await, before);
}

async fn a_group_info_of_another_group_is_refused(app: &TestApp) {
    let member = app.conversation(2).await.remove(0);
    let mut own = Persona::new(member.xrpc.clone());
    own.create(catbird_client::random_did().as_bytes(), "elsewhere").await.unwrap();
    let before = contents(app).await;
    let body = json!({ "convoId": convo(&member), "groupInfo": base64_text(&exported(&own)), "epoch": 0 });
    let reply = refused(ask(&member, "updateGroupInfo", &body).await, 400, "InvalidGroupInfo");
    assert!(reply.text.contains("not this conversation's"), "{reply}");
    let body = with(&update_of(&member, &exported(&member)), json!({ "epoch": 0 }));
    let reply = refused(ask(&member, "updateGroupInfo", &body).await, 400, "InvalidGroupInfo");
    assert!(reply.text.contains("of epoch 1, not of epoch 0"), "{reply}");
    assert_eq!(contents(app).await, before);
}

async fn a_forged_or_incomplete_group_info_is_refused(app: &TestApp) {
    let member = app.conversation(2).await.remove(0);
    let (good, before) = (exported(&member), contents(app).await);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    for bytes in [forged, good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat(), good[4..20].to_vec()] {
        let reply = ask(&member, "updateGroupInfo", &update_of(&member, &bytes)).await;
        refused(reply, 400, "InvalidGroupInfo");
    }
    assert_eq!(contents(app).await, before);
    ok(ask(&member, "updateGroupInfo", &update_of(&member, &good)).await);
}

async fn a_removed_member_stores_nothing(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let removed = members.pop().unwrap();
    members[0].remove(removed.did()).await.unwrap();
    let before = contents(app).await;
    refused(update(&removed).await, 403, "NotMember");
    let stranger = app.persona();
    let body = update_of(&members[0], &exported(&members[0]));
    refused(ask(&stranger, "updateGroupInfo", &body).await, 404, "ConvoNotFound");
    assert_eq!(contents(app).await, before);
}

async fn bytes_in_every_spelling_framed_and_bare_are_accepted(app: &TestApp) {
    let member = app.conversation(1).await.remove(0);
    let framed = exported(&member);
    for bytes in [&framed[..], &framed[4..]] {
        for spelling in spellings(bytes) {
            let body = with(&update_of(&member, &framed), json!({ "groupInfo": spelling }));
            ok(ask(&member, "updateGroupInfo", &body).await);
            assert_eq!(ok(fetch(&member).await).bytes("groupInfo").unwrap(), bytes);
        }
    }
}

async fn framing_mode_checks_group_and_epoch_only(app: &TestApp) {
    let members = app.conversation(2).await;
    ok(ask(&members[1], "updateGroupInfo", &update_of(&members[1], &exported(&members[0]))).await);
    let elsewhere = app.conversation(2).await.remove(0);
    let body = update_of(&members[1], &exported(&elsewhere));
    refused(ask(&members[1], "updateGroupInfo", &body).await, 400, "InvalidGroupInfo");
}
