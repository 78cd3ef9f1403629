//! P10, P7 and P11 for rate limits and quotas. A caller beyond a limit is told exactly how long to wait. A limit
//! belongs to one caller or one conversation; strangers neither use a conversation's limit nor learn of it. Replicas
//! share a limit, and each counts alone without Redis. Quotas count only requests that succeeded, replayed requests
//! still succeed, and replicas count together.

mod bodies;
mod callers;
mod convos;
mod costs;
mod quotas;
mod replicas;

use std::time::{Duration, Instant};

use catbird_client::xrpc::{Reply, Xrpc};

/// Maximum time for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// Length of a burst at the full rate, in seconds.
const BURST_SECONDS: f64 = 2.0;

/// Method of a cheap request: it is open to every caller and does not use the database, so it costs one unit.
const CHEAP: &str = "blue.catbird.mls.getSubscriptionTicket";

/// Sends a request of that method.
async fn ask(caller: &Xrpc) -> Reply {
    ask_with(caller, &caller.token(CHEAP)).await
}

/// Sends it with this token.
async fn ask_with(caller: &Xrpc, token: &str) -> Reply {
    let request = caller.http.post(caller.url(CHEAP, &[])).bearer_auth(token).body("{}");
    caller.send(CHEAP, request).await.unwrap()
}

/// Returns the wait of a rate limit refusal, from the header and the body.
#[track_caller]
fn told_to_wait(reply: &Reply) -> Duration {
    assert_eq!((reply.status, reply.error()), (429, Some("RateLimitExceeded")), "{reply}");
    assert_eq!(reply.body["recovery"], "retrySame");
    let ms = reply.number("retryAfterMs").unwrap();
    let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(ms > 0 && seconds == ms.div_ceil(1_000), "Retry-After says {seconds} s and retryAfterMs {ms}");
    Duration::from_millis(ms)
}

/// Maximum number of requests that a limit of this rate accepts since then.
fn most(rate: u32, since: Instant) -> f64 {
    f64::from(rate) * (BURST_SECONDS + since.elapsed().as_secs_f64())
}

/// Returns the value of a metric.
async fn metric(base: &str, name: &str) -> Option<f64> {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// Waits for a condition that comes true by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
