//! Access to the operators' pages, and their cost.

use std::time::Instant;

use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::get;

#[tokio::test(flavor = "multi_thread")]
async fn p10_however_many_ask_whether_it_is_ready_the_database_is_looked_at_once_per_second() {
    let app = TestApp::start().await;
    let looks = async || {
        let (_, text) = get(format!("{}/metrics", app.base)).await;
        let line = text.lines().find(|line| line.starts_with("database_queries_total{query=\"schema/exists\"}"));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
    };
    let begun = Instant::now();
    for page in ["/health/ready", "/health", "/health/ready"] {
        let replies = join_all((0..100).map(|_| get(format!("{}{page}", app.base)))).await;
        assert!(replies.iter().all(|(status, _)| *status == 200 || *status == 503), "{page}");
    }
    let looks = looks().await;
    let most = 1.0 + begun.elapsed().as_secs_f64();
    assert!(looks >= 1.0 && looks <= most, "{looks} looks in {:?}", begun.elapsed());
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_operators_can_have_a_place_of_their_own() {
    let database = database().await;
    let replica = Replica::start(Mode::Advisory, &database.url, &[("ADMIN_PORT", "0")]).await;
    let address = replica.log().iter().find_map(|line| {
        let entry: serde_json::Value = serde_json::from_str(line).ok()?;
        (entry["message"] == "listening for operators").then(|| entry["address"].as_str().unwrap().to_owned())
    });
    let address = address.expect("the log says where");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let status = async |base: &str, page: &str| get(format!("{base}{page}")).await.0;
    let theirs = format!("http://{address}");
    for (page, for_all, for_operators) in [
        ("/metrics", 404, 200),
        ("/health", 404, 200),
        ("/health/live", 200, 200),
        ("/health/ready", 200, 200),
        ("/lexicons", 200, 404),
        ("/xrpc/blue.catbird.mls.getConvos", 401, 404),
    ] {
        assert_eq!(
            (status(&replica.base, page).await, status(&theirs, page).await),
            (for_all, for_operators),
            "{page}"
        );
    }
    // Pages of other origins may read everything public, refusals included, and nothing else.
    for (base, open) in [(replica.base.trim_start_matches("http://"), true), (&*address, false)] {
        for request in ["GET /%6Detrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "no request\r\n\r\n"] {
            let mut socket = TcpStream::connect(base).await.unwrap();
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut reply = String::new();
            socket.read_to_string(&mut reply).await.unwrap();
            assert!(reply.contains("nosniff"), "{base}: {reply}");
            assert_eq!(reply.contains("access-control"), open && !request.contains("etrics"), "{base}: {reply}");
        }
    }
    assert_eq!(replica.terminate().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_in_the_format_that_is_asked_for() {
    let app = TestApp::start().await;
    let http = catbird_client::xrpc::http().unwrap();
    let ask = async |accept: &str| {
        let reply = http.get(format!("{}/metrics", app.base)).header("accept", accept).send().await.unwrap();
        (reply.headers()["content-type"].to_str().unwrap().to_owned(), reply.text().await.unwrap())
    };
    let (kind, text) = ask("*/*").await;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    assert!(text.contains("\n# TYPE rate_limited_total counter\n") || text.contains("_total counter\n"), "{text}");
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    // Every sample belongs to a declared family, as text parsers require.
    let declared: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for sample in text.lines().filter(|line| !line.starts_with('#')) {
        let name = sample.split(['{', ' ']).next().unwrap();
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(declared.contains(&name) || declared.contains(&family), "{sample}");
    }
    let (kind, text) = ask("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3").await;
    assert!(kind.starts_with("application/openmetrics-text; version=1.0.0") && text.ends_with("# EOF\n"), "{kind}");
    app.finish().await;
}
