//! Limit of one caller.

use std::time::{Duration, Instant};

use catbird_client::random_did;
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};

use crate::limits::{CHEAP, ask, ask_with, metric, most, told_to_wait};

/// One request every 200 ms, which is longer than any request here takes.
const RATE: u32 = 5;
/// Time in which a burst that was used comes back.
const BURST: Duration = Duration::from_secs(2);
const LIMITED: (&str, &str) = ("RATE_LIMIT_PER_DID", "5");

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_caller_beyond_the_limit_is_told_how_long_to_wait_and_can_use_the_token_again() {
    let app = TestApp::with(&[LIMITED]).await;
    let alice = app.persona().xrpc;
    let start = Instant::now();
    let (mut accepted, mut refused) = (0, 0);
    while refused < 3 {
        let token = alice.token(CHEAP);
        let reply = ask_with(&alice, &token).await;
        if reply.status == 200 {
            accepted += 1;
            continue;
        }
        refused += 1;
        tokio::time::sleep(told_to_wait(&reply)).await;
        let again = ask_with(&alice, &token).await;
        assert_eq!(again.status, 200, "the same token after the wait that was named: {again}");
        accepted += 1;
        assert!(accepted >= 10, "a burst of two seconds' worth gets through; {accepted} requests did");
        assert!(f64::from(accepted) <= most(RATE, start), "{accepted} requests in {:?}", start.elapsed());
    }
    assert_eq!(metric(&app.base, "rate_limited_total{scope=\"did\"}").await, Some(3.0));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_a_limit_is_one_callers_own_and_counts_all_its_requests() {
    let app = TestApp::with(&[LIMITED]).await;
    let (alice, bob) = (app.persona().xrpc, app.persona().xrpc);
    let mut asked = 0;
    // Failed requests count too, and so do several methods.
    let refusal = loop {
        let reply = match asked % 3 {
            0 => ask(&alice).await,
            1 => alice.query("getEpoch", &[]).await.unwrap(),
            _ => alice.procedure("sendMessage", &serde_json::json!({ "malformed": true })).await.unwrap(),
        };
        if reply.status == 429 {
            break reply;
        }
        asked += 1;
    };
    told_to_wait(&refusal);
    assert!(asked >= 10, "refused after {asked} requests");
    for _ in 0..10 {
        assert_eq!(ask(&bob).await.status, 200);
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_an_unauthenticated_request_uses_no_limit() {
    let app = TestApp::with(&[LIMITED]).await;
    let alice = app.persona().xrpc;
    let token = alice.token(CHEAP);
    let forged = format!("{}x", &token[..token.len() - 1]);
    for _ in 0..30 {
        assert_eq!(ask_with(&alice, &forged).await.status, 401);
    }
    for _ in 0..10 {
        assert_eq!(ask(&alice).await.status, 200);
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_repeating_a_used_token_uses_no_limit_of_its_owner() {
    let app = TestApp::with(&[LIMITED]).await;
    let alice = app.persona().xrpc;
    let used = alice.token(CHEAP);
    assert_eq!(ask_with(&alice, &used).await.status, 200);
    for _ in 0..30 {
        let reply = ask_with(&alice, &used).await;
        assert_eq!((reply.status, reply.error()), (401, Some("TokenReplayed")), "{reply}");
    }
    // The rest of a burst of two seconds' worth.
    for _ in 0..9 {
        assert_eq!(ask(&alice).await.status, 200);
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_repeating_a_used_token_at_another_replica_uses_no_limit_of_its_owner() {
    let database = database().await;
    let fleet = Fleet::with(&[Mode::Advisory, Mode::Advisory], &database.config, &database.url, &[LIMITED]).await;
    // A persona with key packages has paid for PostgreSQL's time for them.
    let alice = fleet.xrpc(0, &random_did());
    let elsewhere = alice.at(fleet.replicas[1].base.parse().unwrap());
    let used = alice.token(CHEAP);
    assert_eq!(ask_with(&alice, &used).await.status, 200);
    let repeat = async || {
        let malformed = elsewhere.http.post(elsewhere.url(CHEAP, &[])).bearer_auth(&used).body("{");
        elsewhere.send(CHEAP, malformed).await.unwrap()
    };
    // The use of the token is checked after the reply. Until it is known, each repetition counts for the owner.
    loop {
        let reply = repeat().await;
        match reply.error() {
            Some("TokenReplayed") => break,
            Some("InvalidRequest" | "RateLimitExceeded") => {}
            _ => panic!("{reply}"),
        }
    }
    // What those have used comes back.
    tokio::time::sleep(BURST).await;
    for _ in 0..30 {
        assert_eq!(repeat().await.error(), Some("TokenReplayed"));
    }
    // If they were charged, nothing would be left of a burst of two seconds' worth.
    for _ in 0..5 {
        assert_eq!(ask(&elsewhere).await.status, 200);
    }
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p12_repeating_a_used_ticket_from_a_url_uses_no_limit_of_its_owner() {
    let app = TestApp::with(&[LIMITED]).await;
    let alice = app.persona().xrpc;
    let issued = alice.procedure("getSubscriptionTicket", &serde_json::json!({})).await.unwrap();
    let ticket = [("ticket", issued.string("ticket").unwrap().to_owned())];
    let socket = alice.subscribe("subscribeConvoEvents", &ticket).await.unwrap();
    assert!(socket.is_ok(), "the ticket opens one");
    for _ in 0..30 {
        let Err(reply) = alice.subscribe("subscribeConvoEvents", &ticket).await.unwrap() else {
            panic!("opened again")
        };
        assert_eq!((reply.status, reply.error()), (401, Some("TokenReplayed")), "{reply}");
    }
    // Of a burst of two seconds' worth, the ticket and the WebSocket have used two units plus PostgreSQL's time for
    // them, up to half a second on a busy machine. If the others were charged, nothing would be left.
    for _ in 0..5 {
        assert_eq!(ask(&alice).await.status, 200);
    }
    app.finish().await;
}
