//! Addresses at the blob store (`BLOB_REDIRECT`): who gets one, what it opens, and for how long.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::xrpc::nsid;
use catbird_testkit::app::TestApp;
use catbird_testkit::s3::S3Server;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Url};

use super::{content, download, send, unknown, uploaded};
use crate::harness::ok;

/// Maximum time until an address with a lifetime of a second is refused.
const PATIENCE: Duration = Duration::from_secs(10);

fn client() -> Client {
    Client::builder().redirect(Policy::none()).build().unwrap()
}

/// Returns the address that a member is sent to.
async fn address(member: &Persona, blob: &str) -> Url {
    let nsid = nsid("getBlob");
    let url = member.xrpc.url(&nsid, &[("blobId", blob.to_owned())]);
    let reply = client().get(url).bearer_auth(member.xrpc.token(&nsid)).send().await.unwrap();
    assert_eq!(reply.status(), 307);
    reply.headers()["location"].to_str().unwrap().parse().unwrap()
}

/// Requests an address as anybody can who has it. Returns the status and the bytes.
async fn request(method: Method, address: &Url) -> (u16, Vec<u8>) {
    let reply = client().request(method, address.clone()).send().await.unwrap();
    (reply.status().as_u16(), reply.bytes().await.unwrap().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn p7_an_address_is_for_members_and_opens_one_object_for_a_minute() {
    let service = S3Server::start();
    let mut settings = service.settings();
    settings.push(("BLOB_REDIRECT", "true".to_owned()));
    let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, &**value)).collect();
    let app = TestApp::with(&settings).await;
    let mut members = app.conversation(2).await;
    let (bytes, other) = (content("seen", 100_000), uploaded(&members[0], b"another").await);
    let blob = uploaded(&members[0], &bytes).await;
    assert_eq!(download(&members[1].xrpc, &blob).await, unknown(), "no message refers to it");
    ok(send(&members[0], "both", &[&blob, &other]).await);
    let given = address(&members[1], &blob).await;
    let lifetime = given.query_pairs().find(|(name, _)| name == "X-Amz-Expires").unwrap().1.into_owned();
    assert_eq!(lifetime, "60", "as docs/security.md says");
    let reply = client().get(given.clone()).send().await.unwrap();
    assert_eq!(reply.headers()["content-disposition"], "attachment");

    members[0].catch_up().await.unwrap();
    let removed = members.remove(1);
    members[0].remove(removed.did()).await.unwrap();
    assert_eq!(download(&removed.xrpc, &blob).await, unknown(), "no further address is given");
    assert_eq!(request(Method::GET, &given).await, (200, bytes), "the one before lasts for its time");

    // It opens nothing else.
    let mut elsewhere = given.clone();
    elsewhere.set_path(&given.path().replace(&format!("{}/{blob}", &blob[..2]), &format!("{}/{other}", &other[..2])));
    assert!(elsewhere.path().ends_with(&other));
    let mut longer = given.clone();
    longer.set_query(Some(&given.query().unwrap().replace("X-Amz-Expires=60", "X-Amz-Expires=6000")));
    for (method, address) in
        [(Method::GET, &elsewhere), (Method::GET, &longer), (Method::PUT, &given), (Method::DELETE, &given)]
    {
        assert_eq!(request(method.clone(), address).await.0, 403, "{method} {address}");
    }
    let object = format!("blobs/{}/{blob}", &blob[..2]);
    let short = app.app.objects.address(&object, Duration::from_secs(1)).await.unwrap().unwrap();
    let start = Instant::now();
    while request(Method::GET, &short).await.0 != 403 {
        assert!(start.elapsed() < PATIENCE, "{short} is still valid");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(request(Method::GET, &given).await.0, 200, "that of a minute is still valid");
    app.finish().await;
}
