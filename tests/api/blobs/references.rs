//! Messages that refer to blobs.

use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{download, referring, send, uploaded};
use crate::harness::{ask, landed, message, ok, refused, with};

either_serializer! {
    p2_a_message_with_an_unknown_blob_is_not_sent;
    p4_a_repeated_message_gets_the_first_reply;
    p3_messages_with_and_without_blobs_share_one_order;
}

async fn p2_a_message_with_an_unknown_blob_is_not_sent(app: &TestApp) {
    let members = app.conversation(2).await;
    let elsewhere = app.conversation(2).await;
    let (mine, theirs) = (uploaded(&members[0], b"mine").await, uploaded(&elsewhere[0], b"theirs").await);
    let newest = landed(&ok(send(&members[0], "before", &[]).await)).1;
    for unknown in [&theirs, &"0".repeat(32)] {
        refused(send(&members[0], "x", &[&mine, unknown]).await, 404, "BlobNotFound");
    }
    refused(send(&members[0], "x", &["short"]).await, 400, "InvalidRequest");
    refused(send(&members[0], "x", &[&mine, &mine]).await, 400, "InvalidRequest");
    let many: Vec<String> = (0..17).map(|n| format!("{n:032x}")).collect();
    refused(send(&members[0], "x", &many.iter().map(String::as_str).collect::<Vec<_>>()).await, 400, "InvalidRequest");
    let sent = ok(send(&members[1], "another member may refer to it", &[&mine]).await);
    assert_eq!(landed(&sent).1, newest + 1, "nothing of the refused ones is in the log");
    assert_eq!(download(&members[0].xrpc, &mine).await, (200, b"mine".to_vec()));
    assert_eq!(download(&elsewhere[0].xrpc, &mine).await, super::unknown());
}

async fn p4_a_repeated_message_gets_the_first_reply(app: &TestApp) {
    let members = app.conversation(2).await;
    let (one, two) = (uploaded(&members[0], b"one").await, uploaded(&members[0], b"two").await);
    for id in [json!({"msgId": "chosen"}), json!({"idempotencyKey": "key"})] {
        let body = with(&referring(&members[0], "both", &[&one, &two]), id.clone());
        let first = ok(ask(&members[0], "sendMessage", &body).await);
        let again = with(&referring(&members[0], "both", &[&two, &one]), id.clone());
        assert_eq!(ok(ask(&members[0], "sendMessage", &again).await).body, first.body, "in another order");
        for other in [vec![], vec![&*one]] {
            let other = with(&referring(&members[0], "both", &other), id.clone());
            refused(ask(&members[0], "sendMessage", &other).await, 409, "IdempotencyConflict");
        }
    }
    let plain = with(&message(&members[0], b"plain"), json!({"msgId": "plain"}));
    ok(ask(&members[0], "sendMessage", &plain).await);
    refused(ask(&members[0], "sendMessage", &with(&plain, json!({"blobs": [one]}))).await, 409, "IdempotencyConflict");
}

async fn p3_messages_with_and_without_blobs_share_one_order(app: &TestApp) {
    let members = app.conversation(2).await;
    let blob = uploaded(&members[0], b"x").await;
    let blobs = [vec![], vec![&*blob]];
    let sends = (0..40).map(|n| send(&members[n % 2], "x", &blobs[n % 3 % 2]));
    let replies = futures_util::future::join_all(sends).await;
    let mut seqs: Vec<u64> = replies.into_iter().map(|reply| landed(&ok(reply)).1).collect();
    seqs.sort_unstable();
    let first = seqs[0];
    assert_eq!(seqs, (first..first + 40).collect::<Vec<_>>());
    let db = app.database.connect().await;
    let row = db.query_one("select ref_count from blobs", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 13);
}
