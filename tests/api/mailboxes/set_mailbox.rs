//! setMailbox and getMailbox: valid mailboxes, their owners, forbidden URLs, and what the owner sees.

use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    a_mailbox_is_kept_as_it_was_set_and_replaced_by_the_next;
    an_invalid_mailbox_is_refused_and_changes_nothing;
    members_only_where_a_conversation_is_named;
    the_owner_sees_the_mailbox_in_effect_and_its_state;
    snake_case_is_accepted_and_unknown_fields_are_ignored;
}

fn webhook() -> Value {
    json!({
        "provider": "webhook",
        "url": "https://Mail.example.com/in?for=bob",
        "secret": { "$bytes": "dHdlbnR5LWZvdXIgYnl0ZXMgc2VjcmV0" },
        "zone": "home",
    })
}

async fn stored(app: &TestApp) -> Vec<String> {
    let rows = "select concat_ws(' ', convo_id, provider, zone, url, host, convert_from(secret, 'utf8')) from mailboxes order by convo_id";
    app.database.connect().await.query(rows, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn a_mailbox_is_kept_as_it_was_set_and_replaced_by_the_next(app: &TestApp) {
    let members = app.conversation(1).await;
    let everywhere =
        " webhook home https://mail.example.com/in?for=bob mail.example.com twenty-four bytes secret".to_owned();
    for _ in 0..2 {
        assert_eq!(ok(ask(&members[0], "setMailbox", &webhook()).await).body, json!({ "success": true }));
        assert_eq!(stored(app).await, std::slice::from_ref(&everywhere));
    }
    let here = json!({ "provider": "none", "convoId": convo(&members[0]) });
    ok(ask(&members[0], "setMailbox", &here).await);
    assert_eq!(stored(app).await, [everywhere, format!("{} none", convo(&members[0]))]);
    ok(ask(&members[0], "setMailbox", &json!({ "provider": "none" })).await);
    assert_eq!(stored(app).await, [" none".to_owned(), format!("{} none", convo(&members[0]))]);
}

async fn an_invalid_mailbox_is_refused_and_changes_nothing(app: &TestApp) {
    let somebody = app.persona();
    let before = contents(app).await;
    let bytes = |n: usize| json!({ "$bytes": "A".repeat(n * 4 / 3) });
    for changes in [
        json!({ "provider": "none" }),
        json!({ "url": "https://127.0.0.1/in" }),
        json!({ "url": "https://[::1]/in" }),
        json!({ "url": "https://localhost/in" }),
        json!({ "url": "http://mail.example.com/in" }),
        json!({ "url": "https://user:password@mail.example.com/in" }),
        json!({ "url": "https://mail.example.com:8443/in" }),
        json!({ "url": "" }),
        json!({ "url": format!("https://mail.example.com/{}", "x".repeat(2_048)) }),
        json!({ "secret": bytes(21) }),
        json!({ "secret": bytes(66) }),
        json!({ "zone": "x".repeat(129) }),
        json!({ "zone": "\0" }),
    ] {
        refused(ask(&somebody, "setMailbox", &with(&webhook(), changes)).await, 400, "InvalidMailbox");
    }
    for changes in [
        json!({ "provider": null }),
        json!({ "provider": "pigeon" }),
        json!({ "url": null }),
        json!({ "secret": null }),
        json!({ "secret": "***" }),
        json!({ "url": 1 }),
    ] {
        refused(ask(&somebody, "setMailbox", &with(&webhook(), changes)).await, 400, "InvalidRequest");
    }
    assert_eq!(contents(app).await, before);
}

async fn members_only_where_a_conversation_is_named(app: &TestApp) {
    let members = app.conversation(2).await;
    let here = with(&webhook(), json!({ "convoId": convo(&members[0]) }));
    let before = contents(app).await;
    refused(ask(&app.persona(), "setMailbox", &here).await, 404, "ConvoNotFound");
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    assert_eq!(before.count("mailboxes"), 0);
    refused(ask(&members[1], "setMailbox", &here).await, 403, "NotMember");
    assert_eq!(stored(app).await, Vec::<String>::new());
    ok(ask(&members[0], "setMailbox", &here).await);
    assert_eq!(stored(app).await.len(), 1);
}

async fn the_owner_sees_the_mailbox_in_effect_and_its_state(app: &TestApp) {
    let members = app.conversation(2).await;
    let (here, id) = (convo(&members[0]), [("convoId", convo(&members[0]))]);
    let id: Vec<(&str, &str)> = id.iter().map(|(name, id)| (*name, id.as_str())).collect();
    let see = async |parameters: &[(&str, &str)]| {
        let mut body = ok(get(&members[0], "getMailbox", parameters).await).body;
        body.as_object_mut().unwrap().remove("setAt");
        body
    };
    assert_eq!(see(&[]).await, json!({ "provider": "none" }));
    ok(ask(&members[0], "setMailbox", &webhook()).await);
    let everywhere = json!({
        "provider": "webhook", "zone": "home", "url": "https://mail.example.com/in?for=bob", "state": "unverified",
    });
    assert_eq!((see(&[]).await, see(&id).await), (everywhere.clone(), everywhere.clone()));
    ok(ask(&members[0], "setMailbox", &json!({ "provider": "none", "convoId": here })).await);
    assert_eq!((see(&[]).await, see(&id).await), (everywhere, json!({ "provider": "none", "convoId": here })));
    // No other member.
    assert_eq!(ok(get(&members[1], "getMailbox", &id).await).body, json!({ "provider": "none" }));
    refused(get(&app.persona(), "getMailbox", &id).await, 404, "ConvoNotFound");
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": here })).await);
    refused(get(&members[1], "getMailbox", &id).await, 403, "NotMember");
}

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
    let members = app.conversation(1).await;
    let here = with(&webhook(), json!({ "convo_id": convo(&members[0]), "colour": {} }));
    ok(ask(&members[0], "setMailbox", &here).await);
    assert!(stored(app).await[0].starts_with(&convo(&members[0])));
}
