//! Quotas of blobs, and what getQuota shows of them.

use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{send, upload, uploaded};
use crate::harness::{ask, convo, get, ok, refused};

any_serializer! {
    uploads_in_flight_are_limited with ("BLOB_UPLOADS_PER_CALLER", "2");
    blobs_of_a_conversation_are_limited_and_give_their_bytes_back with ("BLOB_BYTES_PER_CONVO", "1000");
    bytes_per_day_are_limited with ("BLOB_BYTES_PER_DAY", "1000");
}

async fn uploads_in_flight_are_limited(app: &TestApp) {
    let members = app.conversation(2).await;
    let create = json!({"convoId": convo(&members[0]), "size": 300_000, "partSize": 262_144});
    // All at once: two get a place.
    let all: Vec<_> = (0..6).map(|_| ask(&members[0], "createBlobUpload", &create)).collect();
    let replies = futures_util::future::join_all(all).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 2);
    let refusal = replies.iter().find(|reply| reply.status != 200).unwrap();
    assert_eq!((refusal.status, refusal.error()), (429, Some("QuotaExceeded")), "{refusal}");
    let wait = refusal.number("retryAfterMs").unwrap();
    assert!((3_500_000..=3_600_000).contains(&wait), "until the first one expires: {refusal}");
    let quota = ok(get(&members[0], "getQuota", &[]).await);
    assert_eq!(quota.body["blobUploads"], json!({"used": 2, "limit": 2}));
    uploaded(&members[1], b"of another person").await;
    let blob = replies.iter().find_map(|reply| reply.body["blobId"].as_str()).unwrap();
    ok(ask(&members[0], "abortBlobUpload", &json!({"blobId": blob})).await);
    ok(ask(&members[0], "createBlobUpload", &create).await);
}

async fn blobs_of_a_conversation_are_limited_and_give_their_bytes_back(app: &TestApp) {
    let members = app.conversation(2).await;
    let all: Vec<_> = (0..6).map(|n| upload(&members[n % 2], &[1; 400])).collect();
    let replies = futures_util::future::join_all(all).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 2, "of all members together");
    let refusal = replies.into_iter().find(|reply| reply.status != 200).unwrap();
    assert_eq!(refused(refusal, 429, "QuotaExceeded").number("retryAfterMs").unwrap(), 3_600_000);
    let used = async || {
        let convo = convo(&members[0]);
        ok(get(&members[0], "getQuota", &[("convoId", &convo)]).await).body["convoBlobBytes"].clone()
    };
    assert_eq!(used().await, json!({"used": 800, "limit": 1_000}));
    let small = uploaded(&members[0], &[1; 200]).await;
    ok(send(&members[0], "small", &[&small]).await);
    super::expire(app).await;
    super::sweep(app, 2).await;
    assert_eq!(used().await, json!({"used": 200, "limit": 1_000}));
    uploaded(&members[1], &[1; 800]).await;
}

async fn bytes_per_day_are_limited(app: &TestApp) {
    let members = app.conversation(2).await;
    uploaded(&members[0], &[1; 600]).await;
    let refusal = refused(upload(&members[0], &[1; 401]).await, 429, "QuotaExceeded");
    assert!(refusal.number("retryAfterMs").unwrap() > 86_000_000, "{refusal}");
    let used = ok(get(&members[0], "getQuota", &[]).await).body["blobBytes"].clone();
    assert_eq!((&used["used"], &used["limit"]), (&json!(600), &json!(1_000)));
    app.app.quotas.settle().await.unwrap();
    let used = ok(get(&members[0], "getQuota", &[]).await).body["blobBytes"].clone();
    assert_eq!(used["used"], json!(600), "in the table now");
    assert!(used["resetsAt"].is_string(), "{used}");
    uploaded(&members[0], &[1; 400]).await;
    uploaded(&members[1], &[1; 1_000]).await;
}
