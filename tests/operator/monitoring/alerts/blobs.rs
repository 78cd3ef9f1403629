//! Faults of the blob store.

use std::time::Duration;

use catbird_client::persona::{Persona, unique};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::{Fault, S3Server};

use super::case::Case;
use super::tools::{Clients, conversation, logged};

const PAUSE: Duration = Duration::from_millis(50);

/// Starts a replica that keeps its blobs at a service.
async fn replica(service: &S3Server, database_url: &str) -> Replica {
    let mut settings = service.settings();
    settings.push(("RETENTION_INTERVAL_SECONDS", "1".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    Replica::start(Mode::Advisory, database_url, &settings).await
}

/// Starts a client that uploads, whatever it is answered.
fn uploading(member: &Persona) -> Clients {
    let (xrpc, convo) = (member.xrpc.clone(), member.convo().unwrap().to_owned());
    Clients::start(1, PAUSE, move |_| {
        let (xrpc, parameters) = (xrpc.clone(), [("convoId", convo.clone())]);
        async move {
            let bytes = unique().into_bytes();
            let length = bytes.len() as u64;
            drop(xrpc.upload("uploadBlob", &parameters, "application/octet-stream", bytes, length).await);
        }
    })
}

pub async fn the_blob_store_is_down(case: &mut Case) {
    let (database, mut service) = (database().await, S3Server::start());
    let replica = replica(&service, &database.url).await;
    let members = conversation(&replica.base, 1).await;
    let uploads = uploading(&members[0]);
    case.watch(&[&replica.base], &database.url).await;
    service.kill();
    case.fires().await;
    case.follow().await.has("operation=\"write\",outcome=\"failed\"");
    case.says("The log says `the blob store fails`, with the cause");
    case.says("`Connection refused`, or no answer: the service is down");
    assert!(logged(&replica, "the blob store fails").await.contains("Connection refused"));
    service.resume();
    case.resolves().await;
    logged(&replica, "the blob store works again").await;
    uploads.end().await;
}

/// The threshold is an hour, so it is divided like the others.
pub async fn the_key_may_not_delete(case: &mut Case) {
    let (database, service) = (database().await, S3Server::start());
    let db = database.connect().await;
    let replica = replica(&service, &database.url).await;
    let members = conversation(&replica.base, 1).await;
    members[0].upload(b"what nothing refers to").await.unwrap();
    case.watch_with(&[&replica.base], &database.url, &[("> 3600\n", "> 10\n")]).await;
    service.fail_at("DELETE", Fault::Status(403));
    db.batch_execute("update blobs set expires_at = now()").await.unwrap();
    case.fires().await;
    case.follow().await.has("operation=\"delete\",outcome=\"failed\"").has("      1 |");
    case.says("The log says why: `a sweep failed`");
    case.says("`403`: the key lacks `s3:DeleteObject`");
    logged(&replica, "a sweep failed").await;
    assert!(logged(&replica, "the blob store fails").await.contains("403"));
    service.fail(Fault::None);
    case.resolves().await;
}
