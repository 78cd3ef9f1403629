//! updateCursor: how far an account's devices have followed a conversation; forward only.

use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

any_serializer! {
    a_cursor_moves_forward_only;
    a_cursor_that_is_an_entry_says_that_it_was_read;
    an_entry_with_an_id_of_its_senders_was_read_and_nothing_else_moves;
    a_cursor_that_is_neither_a_ulid_nor_an_entry_is_refused;
    snake_case_is_accepted_and_unknown_fields_are_ignored;
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

async fn an_entry_with_an_id_of_its_senders_was_read_and_nothing_else_moves(app: &TestApp) {
    let members = app.conversation(2).await;
    let ids = ["6f9619ff-8b86-d011-b42d-00c04fc964ff", "6F9619FF-8B86-D011-B42D-00C04FC964FE"];
    for id in ids {
        let asked = with(&message(&members[0], b"hello"), json!({ "msgId": id }));
        ok(ask(&members[0], "sendMessage", &asked).await);
    }
    let asked = |cursor: &str| json!({ "convoId": convo(&members[1]), "cursor": cursor });
    ok(ask(&members[1], "updateCursor", &asked(ids[0])).await);
    assert_eq!(only_convo(&members[1]).await["unreadCount"], 1);
    assert_eq!(stored(app).await, Vec::<String>::new());
    // Not for a member that joined later.
    let carol = app.persona();
    let added = json!({ "convoId": convo(&members[0]), "didList": [carol.did()] });
    ok(ask(&members[0], "addMembers", &added).await);
    refused(ask(&carol, "updateCursor", &asked(ids[0])).await, 400, "InvalidCursor");
}

async fn a_cursor_that_is_neither_a_ulid_nor_an_entry_is_refused(app: &TestApp) {
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

async fn snake_case_is_accepted_and_unknown_fields_are_ignored(app: &TestApp) {
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
