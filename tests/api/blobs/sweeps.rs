//! When blobs and their bytes are deleted, and when not.

use std::time::Duration;

use catbird_testkit::app::TestApp;

use super::{download, expire, objects, send, sweep, unknown, uploaded};
use crate::harness::{convo, ok, refused};

any_serializer! {
    a_blob_lives_as_long_as_a_message_refers_to_it;
    a_late_upload_of_a_swept_blob_is_deleted_again;
    check_finds_lost_bytes_and_stray_objects;
}

either_serializer! {
    p2_a_sweep_and_a_reference_at_once_agree;
}

async fn a_blob_lives_as_long_as_a_message_refers_to_it(app: &TestApp) {
    let members = app.conversation(2).await;
    let (kept, unused) = (uploaded(&members[0], b"kept").await, uploaded(&members[0], b"unused").await);
    ok(send(&members[0], "once", &[&kept]).await);
    ok(send(&members[0], "twice", &[&kept]).await);
    sweep(app, 0).await;
    expire(app).await;
    sweep(app, 1).await;
    refused(send(&members[0], "too late", &[&unused]).await, 404, "BlobNotFound");
    assert_eq!(objects(app).await.len(), 1);
    let db = app.database.connect().await;
    let delete = async |text: &str| {
        // As retention deletes it.
        let deleted = "delete from messages where convo_id = $1 and ciphertext = convert_to($2, 'UTF8')";
        assert_eq!(db.execute(deleted, &[&convo(&members[0]), &text]).await.unwrap(), 1);
    };
    db.batch_execute("alter table messages disable trigger user").await.unwrap();
    delete("once").await;
    sweep(app, 0).await;
    assert_eq!(download(&members[1].xrpc, &kept).await, (200, b"kept".to_vec()));
    delete("twice").await;
    assert_eq!(download(&members[1].xrpc, &kept).await, unknown());
    sweep(app, 1).await;
    assert_eq!(objects(app).await, [""; 0]);
    // The check of the log would miss the entries.
    db.execute(
        "insert into log_starts select $1, last_seq + 1 from conversations where id = $1",
        &[&convo(&members[0])],
    )
    .await
    .unwrap();
}

async fn a_late_upload_of_a_swept_blob_is_deleted_again(app: &TestApp) {
    let members = app.conversation(2).await;
    let blob = uploaded(&members[0], b"late").await;
    let name = object_of(&blob);
    expire(app).await;
    sweep(app, 1).await;
    assert_eq!(objects(app).await, [""; 0]);
    // An upload that began before ends now.
    app.app.objects.put(&name, "late".into()).await.unwrap();
    sweep(app, 0).await;
    assert_eq!(objects(app).await, [""; 0], "its name is still known");
    expire(app).await;
    sweep(app, 1).await;
    let db = app.database.connect().await;
    assert!(db.query("select from blob_deletions", &[]).await.unwrap().is_empty());
}

fn object_of(blob: &str) -> String {
    format!("blobs/{}/{blob}", &blob[..2])
}

async fn check_finds_lost_bytes_and_stray_objects(app: &TestApp) {
    let members = app.conversation(2).await;
    let (lost, short) = (uploaded(&members[0], b"lost").await, uploaded(&members[0], b"short").await);
    let check =
        async || catbird_server::check::with_objects(&app.database.config, &app.app.objects).await.unwrap().violated();
    assert_eq!(check().await, [""; 0]);
    app.app.objects.delete(&object_of(&lost)).await.unwrap();
    assert_eq!(check().await, ["blob_bytes"]);
    app.app.objects.put(&object_of(&lost), "lost".into()).await.unwrap();
    app.app.objects.put(&object_of(&short), "sh".into()).await.unwrap();
    assert_eq!(check().await, ["blob_bytes"]);
    app.app.objects.put(&object_of(&short), "short".into()).await.unwrap();
    for stray in [object_of(&"0".repeat(32)), format!("parts/{}/1", "0".repeat(32)), "blobs/other".to_owned()] {
        app.app.objects.put(&stray, "x".into()).await.unwrap();
        assert_eq!(check().await, ["stray_objects"], "{stray}");
        app.app.objects.delete(&stray).await.unwrap();
    }
    assert_eq!(check().await, [""; 0]);
}

/// Either the message refers to the blob, which stays, or the blob is gone and the message is refused.
async fn p2_a_sweep_and_a_reference_at_once_agree(app: &TestApp) {
    let members = app.conversation(2).await;
    let (mut kept, mut gone) = (0, 0);
    for round in 0..60_u64 {
        let bytes = round.to_string().into_bytes();
        let blob = uploaded(&members[0], &bytes).await;
        expire(app).await;
        let sweeping = async {
            tokio::time::sleep(Duration::from_micros(round % 10 * 300)).await;
            let (_stop, mut stopped) = tokio::sync::watch::channel(false);
            super::runner(app).pass(super::job(), &mut stopped).await.unwrap();
        };
        let blobs = [&*blob];
        let ((), reply) = tokio::join!(sweeping, send(&members[0], "x", &blobs));
        match reply.status {
            200 => {
                kept += 1;
                assert_eq!(download(&members[1].xrpc, &blob).await, (200, bytes));
            }
            _ => {
                gone += 1;
                refused(reply, 404, "BlobNotFound");
                assert_eq!(download(&members[1].xrpc, &blob).await, unknown());
            }
        }
    }
    assert!(kept > 0 && gone > 0, "{kept} were kept, {gone} are gone: the two never met");
}
