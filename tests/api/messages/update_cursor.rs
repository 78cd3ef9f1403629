//! updateCursor: how far somebody's devices have followed a conversation; forward only.

use serde_json::json;

use crate::harness::*;
use crate::support::app::TestApp;

any_serializer! {
    a_cursor_moves_forward_only;
    a_cursor_that_is_an_entry_says_that_it_was_read;
    what_is_no_ulid_is_refused;
    snake_case_is_accepted_and_what_is_unknown_is_ignored;
    a_former_member_has_no_cursor_to_move;
}

async fn stored(app: &TestApp) -> Vec<String> {
    let rows = app.database.connect().await.query("select last_seen_cursor from cursors", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn a_cursor_moves_forward_only(app: &TestApp) {
    let members = app.conversation(2).await;
    let (early, late) = ("01JB2N0W3E8Z6TQ9K4M5V7X1YA", "01JB2N0W3E8Z6TQ9K4M5V7X1YB");
    for (cursor, then) in [(early, early), (late, late), (early, late), (late, late)] {
        let asked = json!({ "convoId": convo(&members[1]), "cursor": cursor });
        assert_eq!(ok(ask(&members[1], "updateCursor", &asked).await).body, json!({ "success": true }));
        assert_eq!(stored(app).await, [then]);
    }
}

async fn a_cursor_that_is_an_entry_says_that_it_was_read(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let first = members[0].send("one").await.unwrap();
    members[0].send("two").await.unwrap();
    let asked = json!({ "convoId": convo(&members[1]), "cursor": first.message_id });
    ok(ask(&members[1], "updateCursor", &asked).await);
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 1);
}

async fn what_is_no_ulid_is_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let before = contents(app).await;
    for cursor in
        ["", "x", "01JB2N0W3E8Z6TQ9K4M5V7X1Y", "01JB2N0W3E8Z6TQ9K4M5V7X1YAA", "01JB2N0W3E8Z6TQ9K4M5V7X1Y!", "\0"]
    {
        let asked = json!({ "convoId": convo(&members[0]), "cursor": cursor });
        refused(ask(&members[0], "updateCursor", &asked).await, 400, "InvalidCursor");
    }
    assert_eq!(contents(app).await, before);
}

async fn snake_case_is_accepted_and_what_is_unknown_is_ignored(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = json!({ "convo_id": convo(&members[0]), "cursor": "01JB2N0W3E8Z6TQ9K4M5V7X1YA", "colour": {} });
    ok(ask(&members[0], "updateCursor", &asked).await);
}

async fn a_former_member_has_no_cursor_to_move(app: &TestApp) {
    let members = app.conversation(2).await;
    ok(ask(&members[1], "leaveConvo", &json!({ "convoId": convo(&members[1]) })).await);
    let asked = json!({ "convoId": convo(&members[1]), "cursor": "01JB2N0W3E8Z6TQ9K4M5V7X1YA" });
    refused(ask(&members[1], "updateCursor", &asked).await, 403, "NotMember");
    assert_eq!(stored(app).await, Vec::<String>::new());
}
