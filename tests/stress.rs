//! A thousand conversations at once against a real server process, in either mode. Ignored by default: `cargo test
//! --release --test stress test_1000_conversations_concurrent -- --ignored --nocapture`
//!
//! It prints throughput, latencies and conflicts. It asserts that nothing fails, nothing conflicts (every conversation
//! has one writer) and the invariants hold; the figures are informative.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use catbird_client::mls::{Handshake, MlsClient};
use catbird_client::random_did;
use catbird_client::xrpc::{Xrpc, base64_text, bytes_value};
use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Fleet, Mode};
use serde_json::json;
use tokio::sync::Semaphore;

const CONVERSATIONS: usize = 1_000;
const MESSAGES: usize = 100;
const IN_FLIGHT: usize = 64;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run it by name"]
async fn test_1000_conversations_concurrent() {
    for mode in [Mode::Advisory, Mode::Actors] {
        let database = database().await;
        let fleet = Fleet::start(&[mode], &database.config, &database.url).await;
        println!(
            "{mode:?}: {CONVERSATIONS} conversations, a commit and {MESSAGES} messages each, {IN_FLIGHT} requests in flight"
        );
        let start = Instant::now();
        let outcomes = run(&fleet).await;
        report(&outcomes, start.elapsed());
        fleet.check().await;
    }
}

/// Figures of one conversation.
#[derive(Default)]
struct Outcome {
    sends: Vec<Duration>,
    commits: Vec<Duration>,
    conflicts: usize,
}

async fn run(fleet: &Fleet) -> Vec<Outcome> {
    let (limit, done) = (Arc::new(Semaphore::new(IN_FLIGHT)), Arc::new(AtomicUsize::new(0)));
    let connection = fleet.xrpc(0, &random_did());
    let conversations: Vec<_> = (0..CONVERSATIONS)
        .map(|_| {
            let (limit, done, xrpc) = (limit.clone(), done.clone(), connection.signed_in_as(&random_did()));
            tokio::spawn(async move {
                let outcome = converse(&xrpc, &limit).await;
                let finished = done.fetch_add(1, Ordering::Relaxed) + 1;
                if finished.is_multiple_of(CONVERSATIONS / 10) {
                    println!("  {finished} of {CONVERSATIONS} conversations done");
                }
                outcome
            })
        })
        .collect();
    let mut outcomes = Vec::new();
    for conversation in conversations {
        outcomes.push(conversation.await.unwrap());
    }
    outcomes
}

/// Creates a conversation, adds a member with a commit, and sends.
async fn converse(xrpc: &Xrpc, limit: &Semaphore) -> Outcome {
    let mut outcome = Outcome::default();
    let group = random_did().into_bytes();
    let mut mls = MlsClient::new(xrpc.did.clone());
    mls.create_group(&group, Handshake::Private).unwrap();
    let group_id: String = group.iter().map(|byte| format!("{byte:02x}")).collect();
    let create = json!({ "groupId": group_id, "cipherSuite": mls.suite_name(), "currentEpoch": 0 });
    let created = call(xrpc, limit, "createConvo", &create).await;
    let convo = created.0.string("id").unwrap().to_owned();

    let newcomer = MlsClient::new(random_did());
    let staged = mls.add(&group, &[newcomer.key_package().unwrap()]).unwrap();
    let add = json!({
        "convoId": convo, "didList": [newcomer.did()],
        "commit": base64_text(&staged.commit), "welcomeMessage": base64_text(&staged.welcome),
    });
    let (added, took) = call(xrpc, limit, "addMembers", &add).await;
    outcome.conflicts += usize::from(added.status == 409);
    outcome.commits.push(took);
    mls.merge_pending(&group).unwrap();

    for n in 0..MESSAGES {
        let ciphertext = mls.encrypt(&group, format!("message {n}").as_bytes()).unwrap();
        let send =
            json!({ "convoId": convo, "ciphertext": bytes_value(&ciphertext), "epoch": 1, "senderDid": xrpc.did });
        let (sent, took) = call(xrpc, limit, "sendMessage", &send).await;
        outcome.conflicts += usize::from(sent.status == 409);
        outcome.sends.push(took);
        assert!(matches!(sent.status, 200 | 409), "{}", sent.text);
    }
    outcome
}

async fn call(
    xrpc: &Xrpc,
    limit: &Semaphore,
    method: &str,
    body: &serde_json::Value,
) -> (catbird_client::xrpc::Reply, Duration) {
    let _place = limit.acquire().await.unwrap();
    let start = Instant::now();
    let reply = xrpc.procedure(method, body).await.unwrap();
    (reply, start.elapsed())
}

fn report(outcomes: &[Outcome], took: Duration) {
    let mut sends: Vec<Duration> = outcomes.iter().flat_map(|outcome| outcome.sends.iter().copied()).collect();
    let mut commits: Vec<Duration> = outcomes.iter().flat_map(|outcome| outcome.commits.iter().copied()).collect();
    let conflicts: usize = outcomes.iter().map(|outcome| outcome.conflicts).sum();
    println!("  throughput {:.0} messages/s over {:.1} s", sends.len() as f64 / took.as_secs_f64(), took.as_secs_f64());
    for (what, latencies) in [("send", &mut sends), ("commit", &mut commits)] {
        latencies.sort_unstable();
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1_000.0;
        println!("  {what}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", at(0.5), at(0.99), at(1.0));
    }
    println!("  conflicts {conflicts}");
    assert_eq!(conflicts, 0, "every conversation has one writer");
}
