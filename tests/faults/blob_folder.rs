//! P4, P10: the disk of the folder with the blobs is full.

use std::path::{Path, PathBuf};
use std::process::Command;

use catbird_client::persona::{Persona, unique};
use catbird_client::random_did;
use catbird_client::xrpc::Reply;
use catbird_server::check;
use catbird_testkit::app::validated;
use catbird_testkit::cluster::{blob_folder, blob_store, database};
use catbird_testkit::fleet::{Mode, Replica, program};
use serde_json::json;

use super::blobs::send;
use super::tools::{eventually, message};

const PART: usize = 256 * 1024;
/// Room for a part, and not for two.
const ROOM_KIB: &str = "300";

/// Starts a replica that can write this much into one file. The write beyond that fails in the kernel, in the middle of an object, as on
/// a full disk. A test cannot fill the disk for itself alone.
async fn with_little_room(database_url: &str) -> Replica {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/little_room.sh");
    let program = program();
    let settings = [("PROGRAM", program.to_str().unwrap()), ("ROOM_KIB", ROOM_KIB)];
    Replica::start_program(&script, Mode::Advisory, database_url, &settings).await
}

fn make_room(replica: &Replica) {
    let made = Command::new("prlimit").args(["--pid", &replica.pid().to_string(), "--fsize=unlimited"]).status();
    assert!(made.unwrap().success());
}

/// Returns the names of all files in a folder and those in it, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

#[track_caller]
fn unavailable(reply: &Reply) {
    assert_eq!((reply.status, reply.error()), (503, Some("BlobStoreUnavailable")), "{reply}");
    assert_eq!(reply.body["retryAfterMs"], 1_000, "{reply}");
    assert!(!reply.text.contains("blobs/"), "{reply}");
}

async fn upload(member: &Persona, method: &str, parameters: &[(&str, String)], bytes: &[u8]) -> Reply {
    let length = bytes.len() as u64;
    member.xrpc.upload(method, parameters, "application/octet-stream", bytes.to_vec(), length).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_full_disk_takes_no_blob_keeps_what_it_has_and_takes_blobs_again_when_there_is_room() {
    let database = database().await;
    let (db, folder) = (database.connect().await, blob_folder(&database.config));
    let replica = with_little_room(&database.url).await;
    let mut member = Persona::new(validated(&replica.base, &random_did()));
    member.create(unique().as_bytes(), "blobs").await.unwrap();
    let large: Vec<u8> = unique().bytes().cycle().take(2 * PART).collect();
    let kept = member.upload(b"kept").await.unwrap();
    send(&member, &kept).await.unwrap();

    let convo = [("convoId", member.convo().unwrap().to_owned())];
    unavailable(&upload(&member, "uploadBlob", &convo, &large).await);
    let create = json!({ "convoId": member.convo().unwrap(), "size": large.len(), "partSize": PART });
    let in_parts =
        member.xrpc.procedure("createBlobUpload", &create).await.unwrap().string("blobId").unwrap().to_owned();
    for (part, bytes) in (1..).zip(large.chunks(PART)) {
        let part: u32 = part;
        let parameters = [("blobId", in_parts.clone()), ("part", part.to_string())];
        let reply = upload(&member, "uploadBlobPart", &parameters, bytes).await;
        assert_eq!(reply.status, 200, "{reply}");
    }
    let complete = json!({ "blobId": in_parts, "sha256": catbird_client::persona::sha256_hex(&large) });
    unavailable(&member.xrpc.procedure("completeBlobUpload", &complete).await.unwrap());
    let parts = [1, 2].map(|part| folder.join("parts").join(&in_parts).join(part.to_string()));
    let expected = [&[folder.join("blobs").join(&kept[..2]).join(&kept)][..], &parts].concat();
    eventually("nothing is left of what failed", async || files(&folder) == expected).await;
    let uploads = "select key from blobs where stored_at is null";
    let uploads: Vec<String> = db.query(uploads, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(uploads, [in_parts.as_str()], "the upload that failed does not take a place");
    // What needs no room goes on.
    let download = member.xrpc.download("getBlob", &[("blobId", kept.clone())], &[]).await.unwrap();
    assert_eq!(download.unwrap().bytes().await.unwrap(), b"kept");
    let sent = member.xrpc.procedure("sendMessage", &message(&member, "text")).await.unwrap();
    assert_eq!(sent.status, 200, "{sent}");

    make_room(&replica);
    let completed = member.xrpc.procedure("completeBlobUpload", &complete).await.unwrap();
    assert_eq!(completed.status, 200, "{completed}");
    let whole = member.upload(&large).await.unwrap();
    for blob in [&in_parts, &whole] {
        send(&member, blob).await.unwrap();
        let download = member.xrpc.download("getBlob", &[("blobId", blob.clone())], &[]).await.unwrap();
        assert!(download.unwrap().bytes().await.unwrap() == large);
    }
    let log = replica.log().concat();
    assert!(log.contains("the blob store fails") && log.contains("File too large"), "{log}");
    assert!(log.contains("the blob store works again"), "{log}");
    let report = check::with_objects(&database.config, &blob_store(&database.config)).await.unwrap();
    assert!(report.is_clean(), "{report}");
}
