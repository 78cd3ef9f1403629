//! sendTypingIndicator: sent to the other members, not stored, rate-limited.

use catbird_testkit::app::TestApp;
use serde_json::json;

use super::*;
use crate::harness::*;

any_serializer! {
    the_other_members_get_it_and_nothing_is_stored;
    p7_strangers_and_former_members_neither_send_nor_hear_it;
    p10_a_caller_with_too_many_requests_is_told_to_wait;
}

async fn the_other_members_get_it_and_nothing_is_stored(app: &TestApp) {
    let members = app.conversation(3).await;
    let id = convo(&members[0]);
    let (mut bob, mut own) = (follow(&members[1]).await, follow(&members[0]).await);
    // Once the streams are live, one replica loses nothing.
    let sent = ok(ask(&members[0], "sendMessage", &message(&members[0], b"x")).await).number("seq").unwrap();
    bob.seqs_until(sent).await;
    own.seqs_until(sent).await;
    let before = contents(app).await;
    for is_typing in [true, false] {
        let asked = json!({ "convoId": id, "isTyping": is_typing });
        assert_eq!(ok(ask(&members[0], "sendTypingIndicator", &asked).await).body, json!({ "success": true }));
        let event = bob.expect("typingEvent").await;
        assert_eq!((&event["convoId"], &event["isTyping"]), (&json!(id), &json!(is_typing)));
        assert_eq!(event["did"], members[0].did());
    }
    assert_eq!(contents(app).await, before);
    let sent = ok(ask(&members[1], "sendMessage", &message(&members[1], b"y")).await).number("seq").unwrap();
    assert_eq!(own.expect("messageEvent").await["message"]["seq"], sent, "the sender does not get its own indicator");
}

async fn p7_strangers_and_former_members_neither_send_nor_hear_it(app: &TestApp) {
    let members = app.conversation(3).await;
    let id = convo(&members[0]);
    let (mut gone, mut stays) = (follow(&members[2]).await, follow(&members[1]).await);
    let asked = json!({ "convoId": id, "isTyping": true });
    refused(ask(&app.persona(), "sendTypingIndicator", &asked).await, 404, "ConvoNotFound");
    let sent = ok(ask(&members[0], "sendMessage", &message(&members[0], b"x")).await).number("seq").unwrap();
    gone.seqs_until(sent).await;
    stays.seqs_until(sent).await;
    let removal = json!({ "convoId": id, "targetDid": members[2].did() });
    ok(ask(&members[0], "leaveConvo", &removal).await);
    // Independent of how far the tail has read.
    ok(ask(&members[0], "sendTypingIndicator", &asked).await);
    refused(ask(&members[2], "sendTypingIndicator", &asked).await, 403, "NotMember");
    stays.until(|event| event.name == "typingEvent").await;
    gone.expect("removedEvent").await;
    let made = json!({ "groupId": "ab12", "cipherSuite": members[0].mls.suite_name() });
    ok(ask(&members[2], "createConvo", &made).await);
    gone.expect("conversationEvent").await;
}

async fn p10_a_caller_with_too_many_requests_is_told_to_wait(app: &TestApp) {
    let members = app.conversation(2).await;
    let asked = json!({ "convoId": convo(&members[0]), "isTyping": true });
    let mut replies = Vec::new();
    for _ in 0..10 {
        replies.push(ask(&members[0], "sendTypingIndicator", &asked).await);
    }
    let told = replies.pop().unwrap();
    assert!(refused(told, 429, "RateLimitExceeded").retry_after().is_some());
    assert!(replies.iter().any(|reply| reply.status == 200));
    ok(ask(&members[1], "sendTypingIndicator", &asked).await);
}
