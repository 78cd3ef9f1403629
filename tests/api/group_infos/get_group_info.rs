//! getGroupInfo: the GroupInfo of the epoch that the conversation is in (P14), or none.

use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{exported, fetch, update};
use crate::harness::*;

either_serializer! {
    p14_a_group_info_is_served_until_the_next_commit_and_never_after_it;
}
any_serializer! {
    without_one_the_members_are_asked_once;
    each_member_is_served_the_same_and_others_are_served_nothing;
    p14_a_group_info_that_another_replica_outdated_is_not_served;
}

async fn p14_a_group_info_is_served_until_the_next_commit_and_never_after_it(app: &TestApp) {
    let mut members = app.conversation(2).await;
    refused(fetch(&members[0]).await, 404, "GroupInfoUnavailable");
    ok(update(&members[0]).await);
    let served = ok(fetch(&members[1]).await);
    assert_eq!((served.number("epoch").unwrap(), served.body["serverIncarnation"].is_string()), (1, true));
    assert_eq!(members[0].server_epoch().await.unwrap(), 1);
    members[1].send("a message ends no epoch").await.unwrap();
    assert_eq!(ok(fetch(&members[1]).await).body["groupInfo"], served.body["groupInfo"]);
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    let none = refused(fetch(&members[1]).await, 404, "GroupInfoUnavailable");
    assert_eq!((&none.body["serverEpoch"], &none.body["recovery"]), (&json!(2), &json!("retrySame")), "{none}");
    assert_eq!(none.body["retryAfterMs"], 2_000);
    ok(update(&members[0]).await);
    assert_eq!(ok(fetch(&members[1]).await).number("epoch").unwrap(), 2);
}

async fn p14_a_group_info_that_another_replica_outdated_is_not_served(app: &TestApp) {
    let members = app.conversation(2).await;
    ok(update(&members[0]).await);
    ok(fetch(&members[1]).await);
    seed_entries(app, &members[0], "commit", 1, 10).await;
    refused(fetch(&members[1]).await, 404, "GroupInfoUnavailable");
}

async fn without_one_the_members_are_asked_once(app: &TestApp) {
    let members = app.conversation(3).await;
    for member in &members {
        refused(fetch(member).await, 404, "GroupInfoUnavailable");
    }
    assert_eq!(super::group_info_refresh::requests(app).await, [members[0].did()]);
    // A GroupInfo that is there asks no member.
    ok(update(&members[0]).await);
    sql(app, "update group_info_requests set requested_at = requested_at - interval '10 seconds'", &[]).await;
    ok(fetch(&members[1]).await);
    assert_eq!(super::group_info_refresh::requests(app).await.len(), 1);
}

async fn each_member_is_served_the_same_and_others_are_served_nothing(app: &TestApp) {
    let mut members = app.conversation(3).await;
    ok(update(&members[1]).await);
    let stranger = app.persona();
    for member in &members {
        let served = ok(fetch(member).await);
        assert_eq!(served.bytes("groupInfo").unwrap().len(), exported(&members[1]).len());
    }
    let id = convo(&members[0]);
    refused(get(&stranger, "getGroupInfo", &[("convoId", &id)]).await, 404, "ConvoNotFound");
    let leaver = members.pop().unwrap();
    ok(ask(&leaver, "leaveConvo", &json!({ "convoId": id })).await);
    refused(fetch(&leaver).await, 403, "NotMember");
    ok(fetch(&members[0]).await);
}
