//! HAProxy: it takes a replica out as soon as its readiness fails, without any command.

use catbird_testkit::balancer::HaProxy;

use super::*;

/// The roll-out of the actor mode and its roll-back, as in `ops/runbook.md`.
#[tokio::test(flavor = "multi_thread")]
async fn p5_replicas_are_switched_to_actors_and_back_one_by_one_behind_haproxy_and_no_request_fails() {
    const ROLL_OUT: [(usize, Mode); 3] = [(0, Mode::Actors), (1, Mode::Actors), (2, Mode::Actors)];
    const ROLL_BACK: [(usize, Mode); 3] = [(0, Mode::Advisory), (1, Mode::Advisory), (2, Mode::Advisory)];
    let mut stage = Stage::with([Mode::Advisory; 3]).await;
    let haproxy = HaProxy::start(stage.bases(), &[]);
    for (what, restarts, serializer) in [("roll-out", ROLL_OUT, "actors"), ("roll-back", ROLL_BACK, "advisory")] {
        let balancer = format!("HAProxy ({what})");
        rolling_restart(&balancer, &mut stage, &haproxy.base(), |xrpc| xrpc.clone(), async |_| {}, &restarts).await;
        for base in stage.bases() {
            let is_running = metric(base, "actor_spawns_total{actor_type=\"conversation_actor\"}").await;
            assert_eq!(is_running.is_some_and(|spawns| spawns > 0.0), serializer == "actors", "{base}");
            let info = catbird_client::xrpc::http().unwrap().get(format!("{base}/metrics")).send().await.unwrap();
            let info = info.text().await.unwrap();
            assert!(info.contains(&format!("serializer=\"{serializer}\"")), "{base} runs another serializer");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p5_a_drained_replica_gets_nothing_and_a_cut_stream_resumes_from_its_cursor() {
    let mut stage = Stage::start().await;
    let db = stage.database.connect().await;
    let haproxy = HaProxy::start(stage.bases(), &[]);
    let members = stage.members(&haproxy.base()).await;
    let (convo, sender) = (members[0].convo().unwrap().to_owned(), members[1].xrpc.clone());
    let checkers = follow(&members[1..], &haproxy.base()).await;
    let begin = newest(&db, &convo).await + 1;
    let following = tokio::spawn(read(open_socket(&sender, None).await, begin - 1, u64::MAX));
    let traffic = Traffic::start(members);
    stage.progress(&db, &convo, 30).await;

    // Running streams go on, and all that is new goes to the others.
    haproxy.command("set server requests/a state drain");
    let sent = async || metric(stage.bases()[0], "http_requests_total{method=\"sendMessage\",status=\"200\"}").await;
    let mut before = sent().await;
    until("the end of what was running", async || {
        stage.progress(&db, &convo, 10).await;
        let now = sent().await;
        std::mem::replace(&mut before, now) == now
    })
    .await;
    stage.progress(&db, &convo, 60).await;
    assert_eq!(sent().await, before, "a drained replica got requests");
    assert!(checkers.iter().all(|checker| checker.with(|seen| seen.connections == 1)), "a stream was cut");
    stage.restart(0).await;
    haproxy.command("set server requests/a state ready");

    // Every stream is cut.
    for server in ["a", "b", "c"] {
        haproxy.command(&format!("shutdown sessions server streams/{server}"));
    }
    let (seq, cursor) = tokio::time::timeout(PATIENCE, following).await.expect("the socket is cut").unwrap();
    stage.progress(&db, &convo, 30).await;
    let book = traffic.stop().await;
    assert!(book.failed.is_empty(), "{:?}", book.failed);
    let end = newest(&db, &convo).await;
    for checker in &checkers {
        checker.until("the last entry", |seen| seen.has(&convo, end)).await;
        checker.seen().is_exactly(&convo, begin..=end);
        assert!(checker.seen().connections > 1, "the stream was not cut");
    }
    assert!((begin..end).contains(&seq), "the socket was open from {begin} to {seq}, and the last entry is {end}");
    read(open_socket(&sender, Some(&cursor)).await, seq, end).await;
    let log = haproxy.log();
    assert!(log.contains("subscribeConvoEvents") && !log.contains("ticket="), "a ticket is in the log:\n{log}");
    stage.fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_haproxy_limits_addresses_paths_and_bodies_and_trusts_only_configured_proxies() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[]).await;
    let replicas = [&*replica.base; 3];
    let haproxy = HaProxy::start(replicas, &[("REQUESTS_PER_ADDRESS", "40")]);
    let status_with = async |base: &str, head: &str, headers: &str| reply(base, head, headers).await.0;
    let status = async |base: &str, head: &str| status_with(base, head, "").await;
    for (head, expected) in [
        ("GET /xrpc/_health", 200),
        ("GET /lexicons", 200),
        ("GET /.well-known/did.json", 200),
        ("GET /metrics", 404),
        ("GET /health", 404),
        ("GET /health/ready", 404),
        ("GET /xrpc/../metrics", 404),
        ("POST /xrpc/blue.catbird.mls.sendMessage", 401),
    ] {
        assert_eq!(status(&haproxy.base(), head).await, expected, "{head}");
    }
    let send = "POST /xrpc/blue.catbird.mls.sendMessage";
    let (refused, body) = reply(&haproxy.base(), send, UPGRADE).await;
    assert!(refused == 400 && body.contains("no WebSocket"), "{refused} {body}");
    let (refused, body) = reply(&haproxy.base(), send, "Content-Length: 20971521\r\n").await;
    assert!(refused == 413 && body.contains("PayloadTooLarge"), "{refused} {body}");
    let upload = "POST /xrpc/blue.catbird.mls.uploadBlob";
    assert_eq!(status_with(&haproxy.base(), upload, "Content-Length: 52428801\r\n").await, 413);
    // As much of the body as HAProxy waits for. The replica asks for a token.
    let begun = format!("Content-Length: 20971521\r\n\r\n{}", "x".repeat(100 * 1024));
    assert_eq!(first_status(&haproxy.base(), upload, &begun).await, 401);

    // A client that invents addresses is limited all the same.
    let forged =
        async |base: &str, n: u8| reply(base, "GET /lexicons", &format!("X-Forwarded-For: 192.0.2.{n}\r\n")).await;
    let mut last = (200, String::new());
    for n in 0..60 {
        last = forged(&haproxy.base(), n).await;
    }
    assert!(last.0 == 429 && last.1.contains("\"retryAfterMs\":10000"), "{last:?}");
    assert!(!haproxy.log().contains("192.0.2."), "a forged address is in the log");

    // A proxy that is configured is believed, each of its clients has its own limit, and the nearest address counts.
    let trusting = HaProxy::start(replicas, &[("REQUESTS_PER_ADDRESS", "40"), ("TRUSTED_PROXIES", "127.0.0.1/32")]);
    for n in 0..60 {
        let (status, body) = forged(&trusting.base(), n).await;
        assert_eq!(status, 200, "{body}");
    }
    for _ in 0..60 {
        last = reply(&trusting.base(), "GET /lexicons", "X-Forwarded-For: 198.51.100.7, 192.0.2.77\r\n").await;
    }
    assert_eq!(last.0, 429);
    until("the log", async || trusting.log().contains("192.0.2.77 GET /lexicons 429")).await;
}
