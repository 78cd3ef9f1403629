//! confirmWelcome: success destroys the Welcome, failure keeps it, and saying so twice is saying it once.

use serde_json::json;

use crate::harness::*;
use crate::support::app::TestApp;
use crate::support::client::persona::Persona;

either_serializer! {
    success_destroys_the_welcome_and_failure_keeps_it;
    confirming_again_changes_nothing;
    others_keep_theirs;
    a_welcome_that_never_was_cannot_be_confirmed;
    a_former_member_has_nothing_to_confirm;
}
any_serializer! {
    snake_case_is_accepted_and_what_is_unknown_is_ignored;
    the_details_have_a_limit;
}

/// A conversation whose creator has just added `n` people, who have not joined yet.
async fn invited(app: &TestApp, n: usize) -> (Persona, Vec<Persona>) {
    let mut creator = app.conversation(1).await.remove(0);
    let mut joiners = Vec::new();
    for _ in 0..n {
        joiners.push(app.published_persona().await);
    }
    creator.add(&joiners.iter().map(Persona::did).collect::<Vec<_>>()).await.unwrap();
    (creator, joiners)
}

async fn success_destroys_the_welcome_and_failure_keeps_it(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let id = convo(&creator);
    let failed = json!({ "convoId": id, "success": false, "errorDetails": "no such key: it's gone 🗝" });
    for _ in 0..2 {
        assert_eq!(ok(ask(&joiners[0], "confirmWelcome", &failed).await).body, json!({ "confirmed": true }));
        ok(get(&joiners[0], "getWelcome", &[("convoId", &id)]).await);
    }
    let told = app.database.connect().await.query_one("select error_details from welcome_messages", &[]).await.unwrap();
    assert_eq!(told.get::<_, &str>(0), "no such key: it's gone 🗝");
    let joined = json!({ "convoId": id, "success": true });
    assert_eq!(ok(ask(&joiners[0], "confirmWelcome", &joined).await).body, json!({ "confirmed": true }));
    refused(get(&joiners[0], "getWelcome", &[("convoId", &id)]).await, 410, "WelcomeConsumed");
    assert_eq!(contents(app).await.count("welcomes"), 0);
}

async fn confirming_again_changes_nothing(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let joined = json!({ "convoId": convo(&creator), "success": true });
    ok(ask(&joiners[0], "confirmWelcome", &joined).await);
    let before = contents(app).await;
    ok(ask(&joiners[0], "confirmWelcome", &joined).await);
    ok(ask(&joiners[0], "confirmWelcome", &with(&joined, json!({ "success": false, "errorDetails": "late" }))).await);
    assert_eq!(contents(app).await, before);
}

async fn others_keep_theirs(app: &TestApp) {
    let (creator, joiners) = invited(app, 3).await;
    let id = convo(&creator);
    ok(ask(&joiners[0], "confirmWelcome", &json!({ "convoId": id, "success": true })).await);
    for joiner in &joiners[1..] {
        ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    }
    assert_eq!(contents(app).await.count("welcomes"), 1, "the bytes stay while somebody waits for them");
}

async fn a_welcome_that_never_was_cannot_be_confirmed(app: &TestApp) {
    let members = app.conversation(1).await;
    for success in [true, false] {
        let asked = json!({ "convoId": convo(&members[0]), "success": success });
        refused(ask(&members[0], "confirmWelcome", &asked).await, 404, "WelcomeNotFound");
    }
    let (creator, joiners) = invited(app, 1).await;
    let other = json!({ "convoId": convo(&creator), "success": true, "keyPackageHash": "ab".repeat(32) });
    let before = contents(app).await;
    refused(ask(&joiners[0], "confirmWelcome", &other).await, 404, "WelcomeNotFound");
    assert_eq!(contents(app).await, before);
}

async fn a_former_member_has_nothing_to_confirm(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let id = convo(&creator);
    ok(ask(&joiners[0], "leaveConvo", &json!({ "convoId": id })).await);
    let asked = json!({ "convoId": id, "success": true });
    refused(ask(&joiners[0], "confirmWelcome", &asked).await, 403, "NotMember");
}

async fn snake_case_is_accepted_and_what_is_unknown_is_ignored(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let welcome = ok(get(&joiners[0], "getWelcome", &[("convoId", &convo(&creator))]).await);
    let asked = json!({
        "convo_id": convo(&creator), "success": false, "error_details": "x", "key_package_hash": welcome.body["keyPackageHash"],
        "colour": "red",
    });
    ok(ask(&joiners[0], "confirmWelcome", &asked).await);
    assert_eq!(contents(app).await.count("welcomes"), 1);
}

async fn the_details_have_a_limit(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let asked = |details: String| json!({ "convoId": convo(&creator), "success": false, "errorDetails": details });
    for bad in ["x".repeat(1_025), "\0".to_owned()] {
        refused(ask(&joiners[0], "confirmWelcome", &asked(bad)).await, 400, "InvalidRequest");
    }
    ok(ask(&joiners[0], "confirmWelcome", &asked("é".repeat(1_024))).await);
}
