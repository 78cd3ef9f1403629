//! confirmWelcome: success deletes the Welcome, failure keeps it, and a repeated confirmation has no effect.

use catbird_client::persona::Persona;
use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::events::follow;
use crate::harness::*;

either_serializer! {
    success_destroys_the_welcome_and_failure_keeps_it;
    confirming_again_changes_nothing;
    others_keep_theirs;
    a_welcome_that_never_was_cannot_be_confirmed;
    a_former_member_has_nothing_to_confirm;
    a_late_report_leaves_the_next_welcome_alone;
    a_report_on_a_welcome_that_was_replaced_changes_nothing;
    a_report_that_waits_for_its_turn_leaves_the_next_welcome_alone;
    the_others_are_told_once_of_a_welcome_that_cannot_be_opened;
    p2_of_two_recipients_at_two_replicas_the_last_takes_the_bytes_along;
}
any_serializer! {
    snake_case_is_accepted_and_unknown_fields_are_ignored;
    the_details_have_a_limit;
}

/// A conversation whose creator has just added `n` members that have not joined yet.
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

async fn the_others_are_told_once_of_a_welcome_that_cannot_be_opened(app: &TestApp) {
    let (mut creator, joiners) = invited(app, 2).await;
    let id = convo(&creator);
    let mut streams = [follow(&creator).await, follow(&joiners[1]).await, follow(&joiners[0]).await];
    let welcome = ok(get(&joiners[0], "getWelcome", &[("convoId", &id)]).await).body;
    let failed = json!({ "convoId": id, "success": false, "errorDetails": "a secret of mine" });
    for _ in 0..3 {
        ok(ask(&joiners[0], "confirmWelcome", &failed).await);
    }
    for stream in &mut streams[..2] {
        let event = stream.expect("welcomeRejectedEvent").await;
        assert_eq!((&event["convoId"], &event["did"]), (&json!(id), &json!(joiners[0].did())));
        assert_eq!((&event["epoch"], &event["keyPackageHash"]), (&welcome["epoch"], &welcome["keyPackageHash"]));
        assert!(!event.to_string().contains("secret"), "{event}");
    }
    // Nothing more, and nothing to the member itself.
    creator.send("hello").await.unwrap();
    for stream in &mut streams {
        stream.expect("messageEvent").await;
    }
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
    assert_eq!(contents(app).await.count("welcomes"), 1, "the bytes stay while a recipient waits for them");
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

async fn a_late_report_leaves_the_next_welcome_alone(app: &TestApp) {
    let (mut creator, joiners) = invited(app, 1).await;
    let (joiner, id) = (&joiners[0], convo(&creator));
    let first = ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    let joined = json!({ "convoId": id, "success": true, "epoch": first.body["epoch"] });
    ok(ask(joiner, "confirmWelcome", &joined).await);
    creator.remove(joiner.did()).await.unwrap();
    ok(publish(joiner, &joiner.mls.key_package().unwrap()).await);
    creator.add(&[joiner.did()]).await.unwrap();
    let before = contents(app).await;
    for late in [joined.clone(), with(&joined, json!({ "success": false, "errorDetails": "late" }))] {
        assert_eq!(ok(ask(joiner, "confirmWelcome", &late).await).body, json!({ "confirmed": true }));
    }
    assert_eq!(contents(app).await, before);
    let second = ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    assert_eq!(second.number("epoch").unwrap(), first.number("epoch").unwrap() + 2);
    refused(ask(joiner, "confirmWelcome", &with(&joined, json!({ "epoch": 99 }))).await, 404, "WelcomeNotFound");
    ok(ask(joiner, "confirmWelcome", &with(&joined, json!({ "epoch": second.body["epoch"] }))).await);
    assert_eq!(contents(app).await.count("welcomes"), 0);
}

async fn a_report_on_a_welcome_that_was_replaced_changes_nothing(app: &TestApp) {
    let (mut creator, joiners) = invited(app, 1).await;
    let (joiner, id) = (&joiners[0], convo(&creator));
    let first = ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    creator.remove(joiner.did()).await.unwrap();
    creator.add(&[joiner.did()]).await.unwrap();
    let before = contents(app).await;
    let named = json!({ "epoch": first.body["epoch"], "keyPackageHash": first.body["keyPackageHash"] });
    for which in [json!({ "epoch": first.body["epoch"] }), named] {
        for success in [true, false] {
            let late = with(&json!({ "convoId": id, "success": success }), which.clone());
            assert_eq!(ok(ask(joiner, "confirmWelcome", &late).await).body, json!({ "confirmed": true }));
        }
    }
    assert_eq!(contents(app).await, before);
    let second = ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    assert_eq!(second.number("epoch").unwrap(), first.number("epoch").unwrap() + 2);
}

async fn a_report_that_waits_for_its_turn_leaves_the_next_welcome_alone(app: &TestApp) {
    let (creator, joiners) = invited(app, 1).await;
    let (joiner, id) = (&joiners[0], convo(&creator));
    // While the report waits for the conversation's lock, its sender is removed and added again.
    let mut db = app.database.connect().await;
    let other = db.transaction().await.unwrap();
    let lock = "select 1 from pg_advisory_xact_lock(hashtextextended($1, 0))";
    other.query(lock, &[&id]).await.unwrap();
    other.execute("update conversations set updated_at = now() where id = $1", &[&id]).await.unwrap();
    let again = async {
        let watch = app.database.connect().await;
        let waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting = async { while watch.query_opt(waits, &[]).await.unwrap().is_none() {} };
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await.expect("the report waits");
        let next = "update welcome_messages set epoch = epoch + 2, created_at = clock_timestamp() where convo_id = $1";
        assert_eq!(other.execute(next, &[&id]).await.unwrap(), 1);
        other.commit().await.unwrap();
    };
    let joined = json!({ "convoId": id, "success": true });
    let (reply, ()) = tokio::join!(ask(joiner, "confirmWelcome", &joined), again);
    // An actor checks before it waits.
    assert!(reply.status == 200 || reply.error() == Some("WelcomeNotFound"), "{reply}");
    ok(get(joiner, "getWelcome", &[("convoId", &id)]).await);
    ok(ask(joiner, "confirmWelcome", &joined).await);
    assert_eq!(contents(app).await.count("welcomes"), 0);
    let back = "update welcome_messages set epoch = epoch - 2 where convo_id = $1";
    app.database.connect().await.execute(back, &[&id]).await.unwrap();
}

async fn p2_of_two_recipients_at_two_replicas_the_last_takes_the_bytes_along(app: &TestApp) {
    let (creator, joiners) = invited(app, 2).await;
    let id = convo(&creator);
    // The other replica is confirming for the first member.
    let mut db = app.database.connect().await;
    let other = db.transaction().await.unwrap();
    other.execute("update conversations set updated_at = now() where id = $1", &[&id]).await.unwrap();
    let confirm = "update welcome_messages set state = 'consumed', confirmed_at = now(), welcome_id = null
                    where recipient_did = $1";
    assert_eq!(other.execute(confirm, &[&joiners[0].did()]).await.unwrap(), 1);
    let finish = async {
        let watch = app.database.connect().await;
        let waits = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting = async { while watch.query_opt(waits, &[]).await.unwrap().is_none() {} };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(5), waiting).await;
        waited.expect("the second one waits for the first");
        let discard =
            "delete from welcomes w where not exists (select from welcome_messages a where a.welcome_id = w.id)";
        assert_eq!(other.execute(discard, &[]).await.unwrap(), 0, "the second one still needs them");
        other.commit().await.unwrap();
    };
    let joined = json!({ "convoId": id, "success": true });
    let (reply, ()) = tokio::join!(ask(&joiners[1], "confirmWelcome", &joined), finish);
    ok(reply);
    assert_eq!(contents(app).await.count("welcomes"), 0);
}

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
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
    for bad in ["x".repeat(1_025), "é".repeat(513), "\0".to_owned()] {
        refused(ask(&joiners[0], "confirmWelcome", &asked(bad)).await, 400, "InvalidRequest");
    }
    ok(ask(&joiners[0], "confirmWelcome", &asked("é".repeat(512))).await);
}
