//! P5 and P11 for events, with real servers, Redis and PostgreSQL that die. Whatever is killed, cut, frozen or
//! replaced, each member sees every entry of its membership at least once and in order. Notifications only change how
//! soon.

mod balancers;
mod checker;
mod disasters;
mod members;
mod notifications;
mod replicas;
mod soak;

use std::time::{Duration, Instant};

/// Maximum time for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the value of a metric.
async fn metric(base: &str, name: &str) -> Option<f64> {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// Returns what the readiness page says about notifications: their transport, and whether this replica receives them.
async fn hints_of(base: &str) -> (String, bool) {
    let http = catbird_client::xrpc::http().unwrap();
    let page: serde_json::Value = http.get(format!("{base}/health/ready")).send().await.unwrap().json().await.unwrap();
    assert_eq!(page["ready"], true, "{page}");
    (page["hints"]["by"].as_str().unwrap().to_owned(), page["hints"]["listening"].as_bool().unwrap())
}

/// Waits for a condition that comes true by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
