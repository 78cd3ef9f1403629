//! Uploads in one request.

use catbird_client::persona::sha256_hex;
use catbird_client::xrpc::nsid;
use catbird_testkit::app::TestApp;
use serde_json::json;

use super::{content, download, objects, send, send_bytes, unknown, upload, uploaded};
use crate::harness::{ask, convo, ok, refused};

either_serializer! {
    p7_members_read_a_blob_once_a_message_that_they_see_refers_to_it;
}

async fn p7_members_read_a_blob_once_a_message_that_they_see_refers_to_it(app: &TestApp) {
    let mut members = app.conversation(3).await;
    let (stranger, late) = (app.persona(), app.published_persona().await);
    let bytes = content("picture", 300_000);
    let reply = ok(upload(&members[0], &bytes).await);
    assert_eq!((&reply.body["size"], &reply.body["sha256"]), (&json!(300_000), &json!(sha256_hex(&bytes))));
    let blob = reply.body["blobId"].as_str().unwrap().to_owned();
    for who in [&members[0], &members[1], &stranger] {
        assert_eq!(download(&who.xrpc, &blob).await, unknown(), "no message refers to it");
    }
    ok(send(&members[0], "a picture", &[&blob]).await);
    for who in &members {
        assert_eq!(download(&who.xrpc, &blob).await, (200, bytes.clone()));
    }
    assert_eq!(download(&stranger.xrpc, &blob).await, unknown());
    assert_eq!(download(&members[0].xrpc, &"0".repeat(32)).await, unknown());

    // Who joins later does not see the message.
    let mut admin = members.remove(0);
    admin.catch_up().await.unwrap();
    admin.add(&[late.did()]).await.unwrap();
    assert_eq!(download(&late.xrpc, &blob).await, unknown());
    ok(send(&admin, "again", &[&blob]).await);
    assert_eq!(download(&late.xrpc, &blob).await, (200, bytes));

    let removed = members.remove(0);
    admin.catch_up().await.unwrap();
    admin.remove(removed.did()).await.unwrap();
    assert_eq!(download(&removed.xrpc, &blob).await, unknown());
    refused(upload(&removed, b"x").await, 403, "NotMember");
    let body = [("convoId", convo(&admin))];
    refused(send_bytes(&stranger.xrpc, "uploadBlob", &body, b"x").await, 404, "ConvoNotFound");
}

any_serializer! {
    a_group_id_names_the_conversation;
    wrong_bodies_are_refused_and_leave_nothing;
    the_announced_hash_is_compared;
    an_interrupted_upload_leaves_nothing_and_frees_its_place with ("BLOB_UPLOADS_PER_CALLER", "1");
}

async fn a_group_id_names_the_conversation(app: &TestApp) {
    let members = app.conversation(2).await;
    let group = catbird_client::persona::hex(&members[0].group_id);
    let reply = ok(send_bytes(&members[0].xrpc, "uploadBlob", &[("convoId", group)], b"x").await);
    let blob = reply.body["blobId"].as_str().unwrap();
    ok(send(&members[0], "x", &[blob]).await);
    assert_eq!(download(&members[1].xrpc, blob).await, (200, b"x".to_vec()));
}

async fn wrong_bodies_are_refused_and_leave_nothing(app: &TestApp) {
    let members = app.conversation(2).await;
    refused(upload(&members[0], b"").await, 400, "InvalidRequest");
    let nsid = nsid("uploadBlob");
    let url = members[0].xrpc.url(&nsid, &[("convoId", convo(&members[0]))]);
    let too_long = members[0].xrpc.http.post(url).bearer_auth(members[0].xrpc.token(&nsid));
    let too_long = too_long.header("content-length", 50 * 1024 * 1024 + 1).body(vec![0; 50 * 1024 * 1024 + 1]);
    refused(members[0].xrpc.send(&nsid, too_long).await.unwrap(), 413, "BlobTooLarge");
    let mut without = Vec::new();
    for parameters in [vec![], vec![("convoId", convo(&members[0])), ("sha256", "abc".to_owned())]] {
        without.push(send_bytes(&members[0].xrpc, "uploadBlob", &parameters, b"x").await);
    }
    for reply in without {
        refused(reply, 400, "InvalidRequest");
    }
    assert_eq!(objects(app).await, [""; 0]);
    let rows = app.database.connect().await.query("select from blobs", &[]).await.unwrap();
    assert!(rows.is_empty());
}

async fn the_announced_hash_is_compared(app: &TestApp) {
    let members = app.conversation(2).await;
    let parameters = |hash: String| [("convoId", convo(&members[0])), ("sha256", hash)];
    let wrong = send_bytes(&members[0].xrpc, "uploadBlob", &parameters(sha256_hex(b"other")), b"these").await;
    refused(wrong, 400, "BlobMismatch");
    let right = sha256_hex(b"these").to_uppercase();
    ok(send_bytes(&members[0].xrpc, "uploadBlob", &parameters(right), b"these").await);
    let quota = ok(members[0].xrpc.query("getQuota", &[]).await.unwrap());
    assert_eq!(quota.body["blobUploads"]["used"], json!(0), "{quota}");
}

/// The client goes away in the middle. Its place is free when the server has noticed.
async fn an_interrupted_upload_leaves_nothing_and_frees_its_place(app: &TestApp) {
    use tokio::io::AsyncWriteExt;
    let members = app.conversation(2).await;
    let xrpc = &members[0].xrpc;
    let nsid = nsid("uploadBlob");
    let mut socket = tokio::net::TcpStream::connect(app.base.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "POST /xrpc/{nsid}?convoId={} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
        convo(&members[0]),
        xrpc.token(&nsid)
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(&[7; 300_000]).await.unwrap();
    let db = app.database.connect().await;
    let uploads = async || db.query("select from blobs where stored_at is null", &[]).await.unwrap().len();
    while uploads().await == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    refused(upload(&members[0], b"another").await, 429, "QuotaExceeded");
    drop(socket);
    while uploads().await == 1 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let blob = uploaded(&members[0], b"another").await;
    ok(ask(&members[0], "sendMessage", &super::referring(&members[0], "x", &[&blob])).await);
    super::expire(app).await;
    // The name of its object is forgotten, since its bytes are deleted.
    super::sweep(app, 1).await;
    assert_eq!(objects(app).await.len(), 1, "only the blob");
}
