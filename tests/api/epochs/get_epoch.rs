//! getEpoch: the position of a conversation, for its members.

use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

either_serializer! {
    the_epoch_follows_commits_and_nothing_else;
}
any_serializer! {
    an_epoch_that_another_replica_made_is_seen;
    either_spelling_of_the_parameter_is_accepted_and_others_are_ignored;
}

async fn the_epoch_follows_commits_and_nothing_else(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[0].send("no commit").await.unwrap();
    let reply = ok(get(&members[1], "getEpoch", &[("convoId", &convo(&members[1]))]).await);
    let incarnation = &reply.body["serverIncarnation"];
    let expected =
        json!({ "convoId": convo(&members[1]), "generation": 1, "currentEpoch": 1, "serverIncarnation": incarnation });
    assert_eq!((&reply.body, incarnation.is_string()), (&expected, true));
    members[0].add(&[app.published_persona().await.did()]).await.unwrap();
    assert_eq!(members[1].server_epoch().await.unwrap(), 2);
}

async fn an_epoch_that_another_replica_made_is_seen(app: &TestApp) {
    let members = app.conversation(2).await;
    seed_entries(app, &members[0], "commit", 3, 10).await;
    assert_eq!(members[1].server_epoch().await.unwrap(), 4);
}

async fn either_spelling_of_the_parameter_is_accepted_and_others_are_ignored(app: &TestApp) {
    let members = app.conversation(2).await;
    let id = convo(&members[0]);
    for parameters in [[("convo_id", &*id), ("colour", "red")], [("colour", "red"), ("convoId", &*id)]] {
        ok(get(&members[0], "getEpoch", &parameters).await);
    }
}
