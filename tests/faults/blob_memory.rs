//! P10: the bytes of uploads that the blob store does not take wait at their clients, and not in memory.

use actix_web::web::Bytes;
use catbird_client::random_did;
use catbird_client::xrpc::Xrpc;
use catbird_server::limits::MAX_UPLOADS_OF_ONE;
use catbird_testkit::app::validated;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::s3::{Fault, S3Server};
use futures_util::future::join_all;
use serde_json::json;

const CALLERS: usize = 25;
const UPLOAD_BYTES: usize = 50 * 1024 * 1024;
/// Most memory of one upload, in a build without optimisation. It takes 270 KiB, and 560 KiB if the connection reads as far ahead as the
/// HTTP library wants to.
const MAX_BYTES_OF_ONE: u64 = 400 * 1024;

/// Most resident memory that the process ever had, in bytes.
fn peak(replica: &Replica) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", replica.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Lets each caller upload as often at once as it may, and returns how many uploads succeeded.
async fn upload(callers: &[(Xrpc, String)], bytes: &Bytes) -> usize {
    let all = callers.iter().flat_map(|caller| std::iter::repeat_n(caller, MAX_UPLOADS_OF_ONE));
    let uploading = all.map(async |(xrpc, convo)| {
        let (parameters, length) = ([("convoId", convo.clone())], bytes.len() as u64);
        // A refused upload may be cut before its client has read the reply.
        let sent = xrpc.upload("uploadBlob", &parameters, "application/octet-stream", bytes.clone(), length).await;
        sent.is_ok_and(|reply| reply.is_ok())
    });
    join_all(uploading).await.into_iter().filter(|succeeded| *succeeded).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_uploads_that_the_store_does_not_take_wait_at_their_clients() {
    let (database, service) = (database().await, S3Server::start());
    let settings = service.settings();
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    let replica = Replica::start(Mode::Advisory, &database.url, &settings).await;
    let creating = (0..CALLERS).map(async |_| {
        let xrpc = validated(&replica.base, &random_did());
        let group = catbird_client::persona::hex(random_did().as_bytes());
        let creation = json!({ "groupId": group, "cipherSuite": "MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519" });
        let convo = xrpc.procedure("createConvo", &creation).await.unwrap().string("id").unwrap().to_owned();
        (xrpc, convo)
    });
    let callers = join_all(creating).await;
    let uploads = CALLERS * MAX_UPLOADS_OF_ONE;
    assert_eq!(upload(&callers, &Bytes::from_static(&[7; 1_000])).await, uploads);
    let before = peak(&replica);
    service.fail_at("PUT", Fault::Hang);
    assert_eq!(upload(&callers, &vec![7; UPLOAD_BYTES].into()).await, 0);
    let more = peak(&replica) - before;
    println!("{uploads} uploads that wait: {} KiB each", more / 1024 / uploads as u64);
    assert!(more < uploads as u64 * MAX_BYTES_OF_ONE, "{more} bytes");
}
