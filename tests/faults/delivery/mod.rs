//! P5 and P11 of events, with real servers, a real Redis and a real PostgreSQL that die: whatever is killed, cut, frozen or replaced, every
//! member sees every entry of its membership at least once and in order, and what carries hints changes how soon and nothing else.

mod checker;
mod disasters;
mod hints;
mod members;
mod replicas;
mod soak;

use std::time::{Duration, Instant};

/// How long anything may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// The value of a metric.
async fn metric(base: &str, name: &str) -> Option<f64> {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// What the readiness page says about hints: by what, and whether this replica is told.
async fn hints_of(base: &str) -> (String, bool) {
    let http = catbird_client::xrpc::http().unwrap();
    let page: serde_json::Value = http.get(format!("{base}/health/ready")).send().await.unwrap().json().await.unwrap();
    assert_eq!(page["ready"], true, "{page}");
    (page["hints"]["by"].as_str().unwrap().to_owned(), page["hints"]["listening"].as_bool().unwrap())
}

/// Waits for something that comes by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
