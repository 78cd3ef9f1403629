//! Blobs: uploads in one request and in parts, references of messages, who may read, quotas, and what is deleted when.

mod bodies;
mod parts;
mod quotas;
mod redirects;
mod references;
mod sweeps;
mod uploads;

use std::time::Duration;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, Xrpc, nsid};
use catbird_server::clock::Clock;
use catbird_server::config::Retention;
use catbird_server::jobs::{JOBS, Job, Runner, SweepOutcome};
use catbird_testkit::app::TestApp;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{message, with};

/// Bytes that differ in every blob.
fn content(name: &str, length: usize) -> Vec<u8> {
    name.bytes().cycle().zip(0_u32..).take(length).map(|(byte, n)| byte ^ n.wrapping_mul(31) as u8).collect()
}

/// Calls a method whose body is bytes.
async fn send_bytes(caller: &Xrpc, method: &str, parameters: &[(&str, String)], bytes: &[u8]) -> Reply {
    let nsid = nsid(method);
    let request = caller.http.post(caller.url(&nsid, parameters)).bearer_auth(caller.token(&nsid));
    caller.send(&nsid, request.body(bytes.to_vec())).await.unwrap()
}

async fn upload(member: &Persona, bytes: &[u8]) -> Reply {
    let convo = member.convo().unwrap().to_owned();
    send_bytes(&member.xrpc, "uploadBlob", &[("convoId", convo)], bytes).await
}

/// Uploads a blob, and returns its id.
async fn uploaded(member: &Persona, bytes: &[u8]) -> String {
    let reply = upload(member, bytes).await;
    assert_eq!(reply.status, 200, "{reply}");
    reply.body["blobId"].as_str().unwrap().to_owned()
}

/// Gets a blob, and returns the status with the bytes or with the error's name.
async fn download(caller: &Xrpc, blob: &str) -> (u16, Vec<u8>) {
    let nsid = nsid("getBlob");
    let url = caller.url(&nsid, &[("blobId", blob.to_owned())]);
    let reply = caller.http.get(url).bearer_auth(caller.token(&nsid)).send().await.unwrap();
    let status = reply.status().as_u16();
    let bytes = reply.bytes().await.unwrap();
    if status < 300 {
        return (status, bytes.to_vec());
    }
    let error: Value = serde_json::from_slice(&bytes).unwrap();
    (status, error["error"].as_str().unwrap().into())
}

/// The answer to everybody who may not read a blob.
fn unknown() -> (u16, Vec<u8>) {
    (404, b"BlobNotFound".to_vec())
}

/// Returns the body of a message with references.
fn referring(member: &Persona, text: &str, blobs: &[&str]) -> Value {
    with(&message(member, text.as_bytes()), json!({ "blobs": blobs }))
}

/// Sends a message with references.
async fn send(member: &Persona, text: &str, blobs: &[&str]) -> Reply {
    member.xrpc.procedure("sendMessage", &referring(member, text, blobs)).await.unwrap()
}

/// Returns what runs jobs, however often.
fn runner(app: &TestApp) -> Runner {
    runner_with(app, app.app.config.retention)
}

fn runner_with(app: &TestApp, retention: Retention) -> Runner {
    let app = &app.app;
    let retention = Retention { sweep_interval: Duration::ZERO, ..retention };
    Runner::new(app.store.clone(), Clock::system(), retention, app.objects.clone(), app.metrics.jobs.clone())
}

/// Returns the job that deletes blobs.
fn job() -> &'static Job {
    JOBS.iter().find(|job| job.name == "blobs").unwrap()
}

/// Runs a pass of the job that deletes blobs, which must delete this many rows: blobs, and names of objects.
async fn sweep(app: &TestApp, rows: i64) {
    let (_stop, mut stopped) = watch::channel(false);
    assert_eq!(runner(app).pass(job(), &mut stopped).await.unwrap(), SweepOutcome::Made(rows));
}

/// Lets everything expire that can.
async fn expire(app: &TestApp) {
    let db = app.database.connect().await;
    db.batch_execute(
        "update blobs set expires_at = now() - interval '1 s'; update blob_deletions set since = now() - interval '2 h'",
    )
    .await
    .unwrap();
}

/// Returns the names of all objects in the store, sorted.
async fn objects(app: &TestApp) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in ["blobs/", "parts/"] {
        names.extend(app.app.objects.list(prefix).map_ok(|listed| listed.name).try_collect::<Vec<_>>().await.unwrap());
    }
    names.sort();
    names
}
