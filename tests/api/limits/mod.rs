//! P10, P7 and P11 of rate limits: whoever asks too often, or for too much, is told exactly how long to wait, and that is true; a limit is
//! one caller's or one conversation's own; strangers neither use a conversation's limit up nor learn of it; replicas keep a limit
//! together, and each for itself when Redis is gone. And of quotas: what was not done does not
//! count, what was done is answered again, and replicas count together.

mod bodies;
mod callers;
mod convos;
mod costs;
mod quotas;
mod replicas;

use std::time::{Duration, Instant};

use catbird_client::xrpc::{Reply, Xrpc};

/// How long anything may take that comes by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// A burst is this long at the full rate.
const BURST_SECONDS: f64 = 2.0;

/// The method of a request that is answered to anybody and asks nothing of the database, so that it costs one unit however slow that is.
const CHEAP: &str = "blue.catbird.mls.getSubscriptionTicket";

/// A request of that method.
async fn ask(caller: &Xrpc) -> Reply {
    ask_with(caller, &caller.token(CHEAP)).await
}

/// The same with this token.
async fn ask_with(caller: &Xrpc, token: &str) -> Reply {
    let request = caller.http.post(caller.url(CHEAP, &[])).bearer_auth(token).body("{}");
    caller.send(CHEAP, request).await.unwrap()
}

/// The wait that a refusal for its rate names, once in the header and once in the body.
#[track_caller]
fn told_to_wait(reply: &Reply) -> Duration {
    assert_eq!((reply.status, reply.error()), (429, Some("RateLimitExceeded")), "{reply}");
    assert_eq!(reply.body["recovery"], "retrySame");
    let ms = reply.number("retryAfterMs").unwrap();
    let seconds: u64 = reply.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(ms > 0 && seconds == ms.div_ceil(1_000), "Retry-After says {seconds} s and retryAfterMs {ms}");
    Duration::from_millis(ms)
}

/// Most that a limit of so many per second lets through since then.
fn most(rate: u32, since: Instant) -> f64 {
    f64::from(rate) * (BURST_SECONDS + since.elapsed().as_secs_f64())
}

/// The value of a metric.
async fn metric(base: &str, name: &str) -> Option<f64> {
    let http = catbird_client::xrpc::http().unwrap();
    let text = http.get(format!("{base}/metrics")).send().await.unwrap().text().await.unwrap();
    text.lines().find(|line| line.starts_with(name))?.rsplit(' ').next()?.parse().ok()
}

/// Waits for something that comes by itself.
async fn until(what: &str, mut come: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !come().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
