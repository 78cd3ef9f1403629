//! Uploads in parts.

use catbird_client::persona::{Persona, sha256_hex};
use catbird_client::xrpc::Reply;
use catbird_testkit::app::TestApp;
use serde_json::{Value, json};

use super::{content, download, objects, send, send_bytes};
use crate::harness::{ask, convo, get, ok, refused};

const PART: usize = 256 * 1024;

async fn create(member: &Persona, size: usize, part_size: usize) -> Reply {
    ask(member, "createBlobUpload", &json!({"convoId": convo(member), "size": size, "partSize": part_size})).await
}

async fn created(member: &Persona, size: usize) -> String {
    ok(create(member, size, PART).await).body["blobId"].as_str().unwrap().to_owned()
}

async fn part(member: &Persona, blob: &str, number: usize, bytes: &[u8]) -> Reply {
    let parameters = [("blobId", blob.to_owned()), ("part", number.to_string())];
    send_bytes(&member.xrpc, "uploadBlobPart", &parameters, bytes).await
}

async fn complete(member: &Persona, blob: &str, sha256: &str) -> Reply {
    ask(member, "completeBlobUpload", &json!({"blobId": blob, "sha256": sha256})).await
}

async fn progress(member: &Persona, blob: &str) -> (Value, Value) {
    let reply = ok(get(member, "getBlobUpload", &[("blobId", blob)]).await);
    (reply.body["parts"].clone(), reply.body["complete"].clone())
}

any_serializer! {
    an_upload_in_parts_survives_interruptions;
    parts_that_do_not_fit_are_refused;
    a_wrong_hash_changes_nothing_and_the_parts_can_be_sent_again;
    p7_nobody_else_touches_an_upload;
    an_aborted_upload_is_gone;
}

async fn an_upload_in_parts_survives_interruptions(app: &TestApp) {
    let members = app.conversation(2).await;
    let alice = &members[0];
    let bytes = content("film", 3 * PART + 17);
    let sha256 = sha256_hex(&bytes);
    let reply = ok(create(alice, bytes.len(), PART).await);
    assert_eq!(reply.body["parts"], json!(4));
    let blob = reply.body["blobId"].as_str().unwrap();
    let chunks: Vec<_> = bytes.chunks(PART).collect();
    // In any order, and again.
    for number in [4, 2, 2, 1] {
        let reply = ok(part(alice, blob, number, chunks[number - 1]).await);
        assert_eq!(reply.body["sha256"], json!(sha256_hex(chunks[number - 1])));
    }
    assert_eq!(progress(alice, blob).await, (json!([1, 2, 4]), json!(false)));
    refused(complete(alice, blob, &sha256).await, 409, "UploadIncomplete");
    refused(send(alice, "too early", &[blob]).await, 404, "BlobNotFound");
    ok(part(alice, blob, 3, chunks[2]).await);
    let first = ok(complete(alice, blob, &sha256).await);
    assert_eq!(ok(complete(alice, blob, &sha256).await).body, first.body, "sent again");
    refused(complete(alice, blob, &sha256_hex(b"other")).await, 400, "BlobMismatch");
    refused(part(alice, blob, 1, chunks[0]).await, 404, "UploadNotFound");
    assert_eq!(progress(alice, blob).await, (json!([]), json!(true)));
    ok(send(alice, "a film", &[blob]).await);
    assert_eq!(download(&members[1].xrpc, blob).await, (200, bytes));
    super::sweep(app, 0).await;
    assert_eq!(objects(app).await.len(), 1, "the parts are deleted");
}

async fn parts_that_do_not_fit_are_refused(app: &TestApp) {
    let members = app.conversation(2).await;
    let alice = &members[0];
    for (size, part_size, error) in [
        (0, PART, (400, "InvalidRequest")),
        (1, PART - 1, (400, "InvalidRequest")),
        (50 << 21, PART, (413, "BlobTooLarge")),
    ] {
        refused(create(alice, size, part_size).await, error.0, error.1);
    }
    let blob = created(alice, PART + 5).await;
    for (number, bytes) in [(1, PART - 1), (1, PART + 1), (2, 4), (2, 6), (0, 5), (3, 5)] {
        refused(part(alice, &blob, number, &vec![1; bytes]).await, 400, "InvalidRequest");
    }
    assert_eq!(progress(alice, &blob).await, (json!([]), json!(false)));
    assert_eq!(objects(app).await, [""; 0]);
}

async fn a_wrong_hash_changes_nothing_and_the_parts_can_be_sent_again(app: &TestApp) {
    let members = app.conversation(2).await;
    let alice = &members[0];
    let bytes = content("voice", PART + 5);
    let blob = created(alice, bytes.len()).await;
    ok(part(alice, &blob, 1, &bytes[..PART]).await);
    ok(part(alice, &blob, 2, b"wrong").await);
    refused(complete(alice, &blob, &sha256_hex(&bytes)).await, 400, "BlobMismatch");
    assert_eq!(objects(app).await.len(), 2, "the parts alone");
    ok(part(alice, &blob, 2, &bytes[PART..]).await);
    ok(complete(alice, &blob, &sha256_hex(&bytes)).await);
    ok(send(alice, "voice", &[&blob]).await);
    assert_eq!(download(&members[1].xrpc, &blob).await, (200, bytes));
}

async fn p7_nobody_else_touches_an_upload(app: &TestApp) {
    let members = app.conversation(2).await;
    let blob = created(&members[0], PART).await;
    let other = &members[1];
    refused(part(other, &blob, 1, &[0; PART]).await, 404, "UploadNotFound");
    refused(complete(other, &blob, &sha256_hex(b"")).await, 404, "UploadNotFound");
    refused(get(other, "getBlobUpload", &[("blobId", &blob)]).await, 404, "UploadNotFound");
    let aborted = ok(ask(other, "abortBlobUpload", &json!({"blobId": blob})).await);
    assert_eq!(aborted.body, json!({"aborted": false}));
    ok(part(&members[0], &blob, 1, &[0; PART]).await);
}

async fn an_aborted_upload_is_gone(app: &TestApp) {
    let members = app.conversation(2).await;
    let alice = &members[0];
    let blob = created(alice, PART + 1).await;
    ok(part(alice, &blob, 1, &[0; PART]).await);
    let abort = json!({"blobId": blob});
    assert_eq!(ok(ask(alice, "abortBlobUpload", &abort).await).body, json!({"aborted": true}));
    assert_eq!(ok(ask(alice, "abortBlobUpload", &abort).await).body, json!({"aborted": false}));
    refused(part(alice, &blob, 2, &[0; 1]).await, 404, "UploadNotFound");
    super::sweep(app, 0).await;
    assert_eq!(objects(app).await, [""; 0]);
}
