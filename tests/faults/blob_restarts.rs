//! P2 and P4 for blobs: PostgreSQL restarts or crashes in the middle of an upload.

use catbird_client::persona::{Persona, sha256_hex, unique};
use catbird_client::random_did;
use catbird_client::xrpc::Reply;
use catbird_testkit::app::validated;
use catbird_testkit::cluster::OwnCluster;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::S3Server;
use futures_util::stream;
use reqwest::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::blobs::{block, only_these_are_left, send, unblock};
use super::tools::{eventually, lock_waiters};

const PART: usize = 256 * 1024;
const TYPE: &str = "application/octet-stream";

fn bytes() -> Vec<u8> {
    unique().bytes().cycle().take(PART + 1_000).collect()
}

async fn upload(member: &Persona, body: impl Into<Body>, length: usize) -> Reply {
    let parameters = [("convoId", member.convo().unwrap().to_owned())];
    member.xrpc.upload("uploadBlob", &parameters, TYPE, body, length as u64).await.unwrap()
}

/// Begins an upload in parts and sends them. Returns the body of the request that completes it.
async fn in_parts(member: &Persona, bytes: &[u8]) -> Value {
    let create = json!({ "convoId": member.convo().unwrap(), "size": bytes.len(), "partSize": PART });
    let reply = member.xrpc.procedure("createBlobUpload", &create).await.unwrap();
    let blob = reply.string("blobId").unwrap();
    for (part, bytes) in (1_u32..).zip(bytes.chunks(PART)) {
        let parameters = [("blobId", blob.to_owned()), ("part", part.to_string())];
        let length = bytes.len() as u64;
        let reply = member.xrpc.upload("uploadBlobPart", &parameters, TYPE, bytes.to_vec(), length).await.unwrap();
        assert_eq!(reply.status, 200, "{reply}");
    }
    json!({ "blobId": blob, "sha256": sha256_hex(bytes) })
}

/// Lets a request wait in its last statement, which changes rows of this table, and crashes PostgreSQL. Then it works again.
async fn crashed_during(cluster: &mut OwnCluster, event: &str, table: &str, request: impl Future<Output = Reply>) {
    let holder = cluster.connect().await;
    block(&holder, event, table).await;
    let crashing = async {
        lock_waiters(&cluster.connect().await, 1).await;
        cluster.crash().await;
    };
    let (reply, ()) = tokio::join!(request, crashing);
    assert_eq!((reply.status, reply.error()), (503, Some("DatabaseUnavailable")), "{reply}");
    assert!(reply.number("retryAfterMs").is_ok(), "{reply}");
    cluster.resume().await;
    // Its lock has ended with the session.
    let again = cluster.connect().await;
    again.batch_execute("select pg_advisory_lock(4242)").await.unwrap();
    unblock(&again, table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_an_upload_during_a_restart_of_postgres_succeeds_or_is_repeated_and_leaves_nothing() {
    let mut cluster = OwnCluster::start().await;
    let service = S3Server::start();
    let mut settings = service.settings();
    settings.push(("RETENTION_INTERVAL_SECONDS", "1".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    let replica = Replica::start(Mode::Advisory, &cluster.url(), &settings).await;
    let mut member = Persona::new(validated(&replica.base, &random_did()));
    member.create(unique().as_bytes(), "blobs").await.unwrap();
    let mut acknowledged = Vec::new();

    // It restarts while the bytes arrive, which need no database.
    let whole = bytes();
    let (sender, receiver) = mpsc::unbounded_channel();
    let pieces = stream::unfold(receiver, async |mut pieces| pieces.recv().await.map(|piece| (piece, pieces)));
    let uploading = upload(&member, Body::wrap_stream(pieces), whole.len());
    let restarting = async {
        let piece = |bytes: &[u8]| sender.send(Ok::<_, std::io::Error>(bytes.to_vec())).unwrap();
        piece(&whole[..PART]);
        let db = cluster.connect().await;
        eventually("the upload has begun", async || !db.query("select from blobs", &[]).await.unwrap().is_empty())
            .await;
        cluster.restart_immediate().await;
        piece(&whole[PART..]);
        drop(sender);
    };
    let (reply, ()) = tokio::join!(uploading, restarting);
    assert_eq!(reply.status, 200, "{reply}");
    acknowledged.push((reply.string("blobId").unwrap().to_owned(), whole));

    // It crashes when the bytes are stored and their row is not.
    let whole = bytes();
    crashed_during(&mut cluster, "update", "blobs", upload(&member, whole.clone(), whole.len())).await;
    let reply = upload(&member, whole.clone(), whole.len()).await;
    assert_eq!(reply.status, 200, "{reply}");
    acknowledged.push((reply.string("blobId").unwrap().to_owned(), whole));

    let whole = bytes();
    let complete = in_parts(&member, &whole).await;
    let request = async { member.xrpc.procedure("completeBlobUpload", &complete).await.unwrap() };
    crashed_during(&mut cluster, "delete", "blob_parts", request).await;
    let reply = member.xrpc.procedure("completeBlobUpload", &complete).await.unwrap();
    assert_eq!((reply.status, &reply.body["blobId"]), (200, &complete["blobId"]), "{reply}");
    acknowledged.push((reply.string("blobId").unwrap().to_owned(), whole));

    for (blob, _) in &acknowledged {
        send(&member, blob).await.unwrap();
    }
    only_these_are_left(&cluster.connect().await, &cluster.config(), &settings, &member, &acknowledged).await;
}
