//! updateRead: how far an account has read; forward only.

use catbird_testkit::app::TestApp;
use serde_json::json;

use crate::harness::*;

any_serializer! {
    read_entries_stay_read;
    an_entry_that_the_caller_cannot_see_is_not_found;
    reading_again_writes_nothing;
}

async fn read_entries_stay_read(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let mut sent = Vec::new();
    for text in ["one", "two", "three"] {
        sent.push(members[0].send(text).await.unwrap());
    }
    for (entry, position, unread) in [(Some(1), 1, 1), (Some(0), 1, 1), (None, 2, 0), (Some(1), 2, 0)] {
        let mut asked = json!({ "convoId": convo(&members[1]) });
        if let Some(entry) = entry {
            asked["messageId"] = json!(sent[entry as usize].message_id);
        }
        let read = ok(ask(&members[1], "updateRead", &asked).await);
        assert_eq!(read.number("seq").unwrap(), sent[position as usize].seq);
        assert_eq!(only_convo(&members[1]).await["unreadCount"], unread);
    }
}

async fn an_entry_that_the_caller_cannot_see_is_not_found(app: &TestApp) {
    let mut members = app.conversation(1).await;
    let old = members[0].send("old").await.unwrap();
    let bob = app.persona();
    ok(ask(&members[0], "addMembers", &json!({ "convoId": convo(&members[0]), "didList": [bob.did()] })).await);
    for id in [&*old.message_id, "never-was"] {
        let asked = json!({ "convoId": convo(&members[0]), "messageId": id });
        refused(ask(&bob, "updateRead", &asked).await, 404, "MessageNotFound");
    }
    // It has no unread entries of its own.
    let read = ok(ask(&bob, "updateRead", &json!({ "convoId": convo(&members[0]) })).await);
    assert_eq!(read.number("seq").unwrap(), old.seq);
}

async fn reading_again_writes_nothing(app: &TestApp) {
    let mut members = app.conversation(2).await;
    let sent = members[0].send("one").await.unwrap();
    let asked = json!({ "convoId": convo(&members[1]), "messageId": sent.message_id });
    let first = ok(ask(&members[1], "updateRead", &asked).await);
    let before = contents(app).await;
    assert_eq!(ok(ask(&members[1], "updateRead", &asked).await).body, first.body);
    assert_eq!(contents(app).await, before);
}
