//! nginx: it has no health checks of its own, so a replica is taken out of its list before it is stopped.

use catbird_client::random_did;
use catbird_testkit::app::validated;
use catbird_testkit::balancer::Nginx;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn p5_replicas_restart_one_by_one_behind_nginx_and_no_request_fails() {
    let mut stage = Stage::start().await;
    let nginx = Nginx::start(&stage.bases(), "");
    // A reload closes idle connections, which a client may be about to use.
    let own = |xrpc: &Xrpc| xrpc.with_own_connections();
    rolling_restart("nginx", &mut stage, &nginx.base(), own, async |n| nginx.take_out(n).await, &RESTARTS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_nginx_passes_on_public_paths_and_one_upgrade_and_trusts_only_configured_proxies() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let nginx = Nginx::start(&[&*replica.base], "");
    let send = "POST /xrpc/blue.catbird.mls.sendMessage";
    let upload = "POST /xrpc/blue.catbird.mls.uploadBlob";
    for (head, headers, status) in [
        ("GET /xrpc/_health", "", 200),
        ("GET /lexicons", "X-Forwarded-For: 192.0.2.7\r\n", 200),
        ("GET /.well-known/did.json", "", 200),
        ("GET /metrics", "", 404),
        ("GET /health/ready", "", 404),
        ("GET /xrpc/../metrics", "", 404),
        // The replica does not see the upgrade, so it asks for a token.
        (send, UPGRADE, 401),
        (send, "Content-Length: 20971521\r\n", 413),
        (upload, "Content-Length: 20971521\r\n", 401),
        (upload, "Content-Length: 52428801\r\n", 413),
    ] {
        let (found, text) = reply(&nginx.base(), head, headers).await;
        assert_eq!(found, status, "{head} {headers}: {text}");
    }
    let mut alice = Persona::new(validated(&nginx.base(), &random_did()));
    alice.create(random_did().as_bytes(), "one").await.unwrap();
    let socket = open_socket(&alice.xrpc, None).await;
    let sent = alice.send("through nginx").await.unwrap();
    read(socket, sent.seq - 1, sent.seq).await;
    until("the log", async || nginx.log().contains("GET /xrpc/blue.catbird.mls.subscribeConvoEvents 101")).await;
    let log = nginx.log();
    assert!(!log.contains("ticket=") && !log.contains("192.0.2.7"), "{log}");

    let trusting = Nginx::start(&[&*replica.base], "set_real_ip_from 127.0.0.1;\nreal_ip_header X-Forwarded-For;\n");
    let (status, _) = reply(&trusting.base(), "GET /lexicons", "X-Forwarded-For: 192.0.2.7\r\n").await;
    assert_eq!(status, 200);
    until("the log", async || trusting.log().contains("192.0.2.7 GET /lexicons 200")).await;
}
