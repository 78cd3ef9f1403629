//! Operations: health pages, metrics that are recorded, logs without DIDs, and an orderly shutdown.

mod pages;
mod suspensions;
mod tasks;

use catbird_client::persona::Persona;
use catbird_client::xrpc::{self, Xrpc};
use catbird_client::{persona, random_did};
use catbird_testkit::app::validated;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica, run_with};
use serde_json::{Value, json};

pub async fn get(url: String) -> (u16, String) {
    let reply = xrpc::http().unwrap().get(url).send().await.unwrap();
    (reply.status().as_u16(), reply.text().await.unwrap())
}

async fn get_json(url: String) -> (u16, Value) {
    let (status, text) = get(url).await;
    (status, serde_json::from_str(&text).unwrap())
}

/// Creates a conversation of two with a message, a refused message and a removal.
pub async fn some_traffic(base: &str) -> (Persona, Persona, String) {
    let mut alice = Persona::new(validated(base, &random_did()));
    let mut bob = Persona::new(validated(base, &random_did()));
    alice.publish_key_packages(1).await.unwrap();
    bob.publish_key_packages(1).await.unwrap();
    alice.create(random_did().as_bytes(), "a name that only members see").await.unwrap();
    alice.add(&[bob.did()]).await.unwrap();
    let convo = alice.convo().unwrap().to_owned();
    bob.join(&convo).await.unwrap();
    bob.send("a text that only members see").await.unwrap();
    alice.catch_up().await.unwrap();
    let stale = json!({ "convoId": convo, "ciphertext": { "$bytes": "b3BhcXVl" }, "epoch": 0, "senderDid": bob.did() });
    assert_eq!(bob.xrpc.procedure("sendMessage", &stale).await.unwrap().status, 409);
    alice.remove(bob.did()).await.unwrap();
    (alice, bob, convo)
}

#[tokio::test(flavor = "multi_thread")]
async fn health_pages_have_the_documented_content() {
    let database = database().await;
    for mode in [Mode::Advisory, Mode::Actors] {
        let replica = Replica::start(mode, &database.url, &[]).await;
        some_traffic(&replica.base).await;
        let (status, health) = get_json(format!("{}/health", replica.base)).await;
        assert_eq!(
            (status, &health["status"], &health["checks"]["database"]),
            (200, &json!("healthy"), &json!("healthy"))
        );
        assert!(
            health["timestamp"].is_i64() && health["version"].is_string() && health["checks"]["memory"] == "healthy"
        );
        let bytes = &health["checks"]["memory_bytes"];
        assert!(bytes["resident"].as_u64().unwrap() > 1 << 20 && bytes["limit"].as_u64() > bytes["resident"].as_u64());
        assert_eq!(health["checks"]["tasks"], json!({ "status": "healthy", "ended": [] }));
        let actors = (mode == Mode::Actors).then(|| json!({ "active_actors": 1 }));
        assert_eq!(health["checks"].get("actors"), actors.as_ref(), "measured, or absent without actors");
        assert_eq!(get(format!("{}/health/live", replica.base)).await, (200, "OK".to_owned()));
        let (status, ready) = get_json(format!("{}/health/ready", replica.base)).await;
        assert_eq!((status, &ready["ready"], &ready["checks"]["schema"]), (200, &json!(true), &json!(true)));
        let (status, did) = get_json(format!("{}/.well-known/did.json", replica.base)).await;
        assert_eq!((status, &did["id"]), (200, &json!(catbird_testkit::app::SERVICE_DID)));
        assert_eq!(replica.terminate().await, Some(0), "SIGTERM ends it in good order");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_recorded_under_the_names_that_operators_know() {
    let database = database().await;
    let replica = Replica::start(Mode::Actors, &database.url, &[]).await;
    some_traffic(&replica.base).await;
    let (_, text) = get(format!("{}/metrics", replica.base)).await;
    let value = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value("actor_spawns_total{actor_type=\"conversation_actor\"}"), 1.0);
    assert_eq!(value("actor_registry_active_actors"), 1.0);
    assert_eq!(value("epoch_conflicts_total"), 1.0);
    assert_eq!(value("epoch_increment_duration_seconds_count"), 2.0);
    assert_eq!(value("mls_messages_sent_total"), 1.0);
    assert_eq!(value("mls_groups_created_total"), 1.0);
    assert_eq!(value("mls_members_added_total"), 2.0);
    for recorded in [
        "http_requests_total{method=\"sendMessage\",status=\"200\"}",
        "http_requests_total{method=\"sendMessage\",status=\"409\"}",
        "http_request_duration_seconds_count{method=\"sendMessage\"}",
        "xrpc_errors_total{error=\"EpochMismatch\"}",
        "actor_message_duration_seconds_count{actor_type=\"conversation_actor\",message_type=\"submitCommit\"}",
        "database_queries_total{query=\"commits/submit_commit\"}",
        "database_query_duration_seconds_count{query=\"commits/submit_commit\"}",
        "database_transactions_total{name=\"submitCommit.batch\",outcome=\"committed\"}",
        "database_connections_max",
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
    ] {
        assert!(value(recorded) > 0.0, "{recorded} was not recorded");
    }
    assert!(text.contains("# TYPE actor_mailbox_depth gauge"), "{text}");
    assert!(!text.contains("did:"), "no label holds a DID");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_and_hold_no_secret_no_body_and_no_name() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("RUST_LOG", "info")]).await;
    let (alice, bob, convo) = some_traffic(&replica.base).await;
    let url = alice.xrpc.url(&xrpc::nsid("getConvos"), &[]);
    let token = alice.xrpc.token(&xrpc::nsid("getConvos"));
    for _ in 0..2 {
        let request = alice.xrpc.http.get(url.clone()).header("x-request-id", "find-me").bearer_auth(&token);
        request.send().await.unwrap();
    }
    // The log arrives through a pipe, a moment after the reply.
    let found = |log: &[String]| log.iter().filter(|line| line.contains("\"given\":\"find-me\"")).count();
    let start = std::time::Instant::now();
    while found(&replica.log()) < 2 && start.elapsed() < std::time::Duration::from_secs(10) {
        tokio::task::yield_now().await;
    }
    let logged = replica.log().join("\n");
    let secrets =
        [alice.did(), bob.did(), &convo, &token, catbird_testkit::app::SECRET, "a name that only", "b3BhcXVl"];
    for secret in secrets {
        assert!(!logged.contains(secret), "{secret} is in the log:\n{logged}");
    }
    assert!(!logged.contains(&persona::hex(&alice.group_id)));
    for line in replica.log() {
        serde_json::from_str::<Value>(&line).unwrap();
    }
    assert_eq!(found(&replica.log()), 2, "each request is logged with the id that it came with:\n{logged}");
}

/// The health check of the image. It answers for the process alone, so an outage of the database restarts no container.
#[tokio::test(flavor = "multi_thread")]
async fn the_health_check_fails_without_a_live_server() {
    let replica = Replica::spawn(Mode::Advisory, "postgres://nobody@127.0.0.1:9/none", &[]).await;
    let port = replica.base.rsplit_once(':').unwrap().1.to_owned();
    let health = async |host: &str| {
        let settings = [("SERVER_HOST", host), ("SERVER_PORT", &port), ("JWT_SECRET", "")];
        catbird_testkit::fleet::run_as(&["health"], "postgres://nobody@127.0.0.1:9/none", &settings).await
    };
    for host in ["127.0.0.1", "localhost", "0.0.0.0"] {
        let (code, said, errors) = health(host).await;
        assert_eq!((code, said.as_str(), errors.as_str()), (Some(0), "", ""), "{host}");
    }
    drop(replica);
    let (code, _, errors) = health("127.0.0.1").await;
    assert!(code == Some(1) && errors.contains("not alive"), "{code:?} {errors}");

    // Something else that listens there.
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    let stranger = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.0 503 Service Unavailable\r\n\r\n").await.unwrap();
    });
    let (code, _, errors) = health("127.0.0.1").await;
    assert!(code == Some(1) && errors.contains("503"), "{code:?} {errors}");
    stranger.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unready_server_does_not_prevent_a_check() {
    let database = database().await;
    let settings = [("SERVER_HOST", "0.0.0.0"), ("SERVICE_DID", "did:web:mls.example.com")];
    for (command, code) in [("serve", 2), ("check", 0), ("migrate", 0)] {
        let (ended, _, errors) = catbird_testkit::fleet::run_as(&[command], &database.url, &settings).await;
        assert_eq!(ended, Some(code), "{command}: {errors}");
        assert_eq!(errors.contains("ALLOW_DEVELOPMENT_TOKENS"), code == 2, "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_before_the_schema_is_there_are_told_to_wait() {
    let cluster = catbird_testkit::cluster::OwnCluster::start().await;
    let mut cluster = cluster;
    let url = cluster.url();
    cluster.stop().await;
    let replica = Replica::spawn(Mode::Advisory, &url, &[]).await;
    let (status, ready) = get_json(format!("{}/health/ready", replica.base)).await;
    assert_eq!((status, &ready["ready"], &ready["checks"]["database"]), (503, &json!(false), &json!(false)));
    assert_eq!(get(format!("{}/health", replica.base)).await.0, 503);
    assert_eq!(get(format!("{}/health/live", replica.base)).await.0, 200, "a database outage is no reason to restart");
    let alice: Xrpc = validated(&replica.base, &random_did());
    let refused = alice.query("getConvos", &[]).await.unwrap();
    assert_eq!((refused.status, refused.error()), (503, Some("DatabaseUnavailable")));
    assert!(refused.retry_after().is_some());
    cluster.resume().await;
    replica.ready().await;
    assert_eq!(alice.query("getConvos", &[]).await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_smoke_test_passes_on_a_server_that_works_and_says_so_step_by_step() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let (code, said, errors) = run_with(&["smoke-test", &replica.base], &database.url).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{said}");
    assert!(said.lines().count() > 8 && said.contains("ok ") && said.trim_end().ends_with("no fork."), "{said}");
    let (code, _, errors) = run_with(&["smoke-test", "http://127.0.0.1:9"], &database.url).await;
    assert!(code == Some(1) && errors.contains("is the server running there?"), "{errors}");
    // No token is minted for an unknown method either.
    let (code, said, errors) = run_with(&["token", "did:plc:alice", "noSuchMethod"], &database.url).await;
    assert_eq!((code, said.as_str()), (Some(2), ""));
    assert!(errors.contains("no method blue.catbird.mls.noSuchMethod"), "{errors}");
}
