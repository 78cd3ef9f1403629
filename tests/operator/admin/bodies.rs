//! Exports and deletions of conversations that have ciphertexts in the blob store.

use catbird_client::persona::hex;
use catbird_client::random_did;
use catbird_client::xrpc::bytes_value;
use catbird_server::bodies::MIN_BODY_BYTES;
use catbird_server::check;
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::blob_folder;
use catbird_testkit::fleet::run_as;
use serde_json::{Value, json};

use super::{admin, attempt, counts};

#[tokio::test(flavor = "multi_thread")]
async fn an_export_has_the_ciphertexts_of_the_blob_store_and_a_deletion_gives_them_up() {
    let app = TestApp::start().await;
    let alice = app.persona();
    let creation = json!({
        "groupId": hex(random_did().as_bytes()), "cipherSuite": alice.mls.suite_name(), "storageModel": "blob",
    });
    let convo = alice.xrpc.procedure("createConvo", &creation).await.unwrap().string("id").unwrap().to_owned();
    for ciphertext in [vec![7; MIN_BODY_BYTES], b"small".to_vec(), vec![8; MIN_BODY_BYTES]] {
        let message = json!({ "convoId": convo, "ciphertext": bytes_value(&ciphertext), "epoch": 0 });
        assert_eq!(alice.xrpc.procedure("sendMessage", &message).await.unwrap().status, 200);
    }
    let since = [("convoId", convo.clone()), ("sinceSeq", "0".to_owned())];
    let log = alice.xrpc.query("getMessages", &since).await.unwrap();
    let store = format!("file://{}", blob_folder(&app.database.config).display());
    let command = ["admin", "export", &convo, "--reason", "ticket 8"];
    let (code, exported, errors) = run_as(&command, &app.database.url, &[("BLOB_STORE_URL", &store)]).await;
    assert_eq!(code, Some(0), "{errors}");
    let lines: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(json!(lines) == log.body["messages"]);
    // Without the blob store nothing is exported in place of what is there.
    let empty = std::env::temp_dir().join(random_did());
    let elsewhere = format!("file://{}", empty.display());
    let (code, exported, errors) = run_as(&command, &app.database.url, &[("BLOB_STORE_URL", &elsewhere)]).await;
    assert!(code == Some(2) && exported.is_empty() && errors.contains("BlobStoreUnavailable"), "{code:?} {errors}");
    std::fs::remove_dir_all(empty).unwrap();

    let planned = counts(&admin(&app.database, &["delete", &convo, "--dry-run"]).await);
    let (code, done, errors) = attempt(&app.database, &["delete", &convo]).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(counts(&done), planned);
    assert_eq!((&planned["entries"], &planned["bytes"]), (&json!(3), &json!(2 * MIN_BODY_BYTES + 5)));
    let db = app.database.connect().await;
    let left =
        "select (select count(*) from messages where body_key is not null), (select count(*) from blob_references),
                       (select count(*) from blobs where ref_count = 0)";
    let left = db.query_one(left, &[]).await.unwrap();
    assert_eq!((left.get(0), left.get(1), left.get(2)), (0_i64, 0_i64, 2_i64), "the sweep of blobs deletes the rest");
    let report = check::with_objects(&app.database.config, &app.app.objects).await.unwrap();
    assert!(report.is_clean(), "{report}");
    app.finish().await;
}
