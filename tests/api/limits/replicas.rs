//! Limits that replicas share through Redis, and count alone without it.

use std::time::{Duration, Instant};

use catbird_client::random_did;
use catbird_client::xrpc::{Reply, Xrpc, base64_text, bytes_value};
use catbird_testkit::cluster::{TestDatabase, database};
use catbird_testkit::fleet::{Fleet, Mode};
use catbird_testkit::redis::Redis;
use serde_json::json;

use crate::limits::{ask, metric, most, told_to_wait, until};

const RATE: u32 = 5;
const PER_DID: (&str, &str) = ("RATE_LIMIT_PER_DID", "5");
const PER_CONVO: (&str, &str) = ("RATE_LIMIT_PER_CONVO", "5");
const MODES: [Mode; 2] = [Mode::Advisory, Mode::Actors];

/// Starts two replicas with these settings, connected to Redis.
async fn fleet(redis: &Redis, database: &TestDatabase, settings: &[(&str, &str)]) -> Fleet {
    let url = redis.url();
    let settings = [&[("REDIS_URL", url.as_str())], settings].concat();
    let fleet = Fleet::with(&MODES, &database.config, &database.url, &settings).await;
    for (n, replica) in fleet.replicas.iter().enumerate() {
        until("the connection to Redis", async || {
            ask(&fleet.xrpc(n, &random_did())).await;
            metric(&replica.base, "redis_up").await == Some(1.0)
        })
        .await;
    }
    fleet
}

/// Time limit of the server's calls to Redis.
const REDIS_TIMEOUT: Duration = Duration::from_millis(50);

/// Outcome of the requests.
struct Outcome {
    accepted: usize,
    refused: usize,
    /// Shortest time of an accepted request.
    fastest: Duration,
    /// Maximum that one shared limit would have accepted.
    most: f64,
}

/// Sends the requests one after the other; each must be accepted or refused for its rate.
async fn count(requests: usize, mut send: impl AsyncFnMut(usize) -> Reply) -> Outcome {
    let start = Instant::now();
    let (mut accepted, mut refused, mut fastest) = (0, 0, Duration::MAX);
    for n in 0..requests {
        let asked = Instant::now();
        let reply = send(n).await;
        if reply.status == 200 {
            accepted += 1;
            fastest = fastest.min(asked.elapsed());
        } else {
            told_to_wait(&reply);
            refused += 1;
        }
    }
    Outcome { accepted, refused, fastest, most: most(RATE, start) }
}

impl Outcome {
    /// Two replicas that do not share would accept twice as much as one.
    #[track_caller]
    fn is_shared(&self) {
        let Self { accepted, refused, most, .. } = self;
        assert!(*refused > 0, "the limit was never reached");
        assert!(*accepted as f64 <= 1.4 * most, "{accepted} were accepted where one replica lets {most} through");
    }

    /// As much as two bursts: the replicas do not share.
    #[track_caller]
    fn is_each_replicas_own(&self) {
        let Self { accepted, refused, most, .. } = self;
        assert!(*refused > 0, "the limit was never reached");
        assert!(*accepted >= 20, "{accepted} were accepted, fewer than two bursts");
        assert!(
            *accepted as f64 <= 2.0 * most,
            "{accepted} were accepted where two replicas let {} through",
            2.0 * most
        );
    }
}

/// Requests of one caller, alternating between the replicas.
async fn of_one_caller(fleet: &Fleet) -> Outcome {
    let did = random_did();
    let at: Vec<Xrpc> = (0..MODES.len()).map(|n| fleet.xrpc(n, &did)).collect();
    count(120, async |n| ask(&at[n % at.len()]).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_replicas_share_a_callers_limit_and_redis_learns_no_did() {
    let redis = Redis::start();
    let database = database().await;
    let fleet = fleet(&redis, &database, &[PER_DID]).await;
    let outcome = of_one_caller(&fleet).await;
    let found = keys(&redis);
    outcome.is_shared();

    assert!(!found.is_empty() && found.iter().all(|key| key.starts_with("catbird:limit:did:")), "{found:?}");
    assert!(found.iter().all(|key| !key.contains("plc")), "{found:?}");
    until("the end of every bucket in Redis", async || keys(&redis).is_empty()).await;
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_replicas_share_a_conversations_limit() {
    let redis = Redis::start();
    let database = database().await;
    let fleet = fleet(&redis, &database, &[PER_CONVO]).await;
    let members = fleet.conversation(2).await;
    let body = json!({
        "convoId": members[0].convo().unwrap(),
        "ciphertext": bytes_value(b"opaque"),
        "epoch": members[0].epoch().unwrap(),
    });
    until("the end of what making it has charged", async || keys(&redis).is_empty()).await;
    count(120, async |n| members[n % 2].xrpc.procedure("sendMessage", &body).await.unwrap()).await.is_shared();
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p10_replicas_share_a_members_limit_on_commits() {
    let redis = Redis::start();
    let database = database().await;
    let fleet = fleet(&redis, &database, &[("COMMITS_PER_MINUTE", "3")]).await;
    // That takes the creator one commit.
    let mut members = fleet.conversation(6).await;
    let others: Vec<String> = members.drain(1..).map(|member| member.did().to_owned()).collect();
    let mut creator = members.remove(0);
    let at: Vec<Xrpc> = fleet.replicas.iter().map(|replica| creator.xrpc.at(replica.base.parse().unwrap())).collect();
    let mut accepted = 1;
    for (n, other) in others.iter().enumerate() {
        let staged = creator.mls.remove(&creator.group_id, &[other.as_str()]).unwrap();
        let convo = creator.convo().unwrap();
        let body = json!({ "convoId": convo, "targetDid": other, "commit": base64_text(&staged.commit) });
        let mut reply = at[(n + 1) % 2].procedure("leaveConvo", &body).await.unwrap();
        if reply.status == 429 {
            told_to_wait(&reply);
            reply = at[n % 2].procedure("leaveConvo", &body).await.unwrap();
        }
        if reply.status == 429 {
            told_to_wait(&reply);
            break;
        }
        assert_eq!(reply.status, 200, "{reply}");
        creator.mls.merge_pending(&creator.group_id).unwrap();
        accepted += 1;
        // Usage of the other replica arrives a moment later.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        (3..=5).contains(&accepted),
        "{accepted} commits where three per minute may be, and one more at each replica"
    );
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_without_redis_every_replica_keeps_the_limit_alone_and_nothing_fails() {
    let mut redis = Redis::start();
    let database = database().await;
    let fleet = fleet(&redis, &database, &[PER_DID]).await;
    of_one_caller(&fleet).await.is_shared();

    redis.kill();
    for (n, replica) in fleet.replicas.iter().enumerate() {
        until("the notice that Redis is gone", async || {
            assert_eq!(ask(&fleet.xrpc(n, &random_did())).await.status, 200);
            metric(&replica.base, "rate_limit_unshared_total{cause=\"redis\"}").await >= Some(1.0)
        })
        .await;
    }
    let said_before: Vec<_> = fleet.replicas.iter().map(|replica| said(&replica.log())).collect();
    of_one_caller(&fleet).await.is_each_replicas_own();
    for (replica, (gone, back)) in fleet.replicas.iter().zip(&said_before) {
        let (gone_now, back_now) = said(&replica.log());
        // The log arrives through a pipe, a moment later.
        assert!(gone_now >= 1 && gone_now <= gone + 1 && back_now <= back + 1, "it is not said with every request");
    }

    redis.resume();
    for (n, replica) in fleet.replicas.iter().enumerate() {
        until("the return of Redis", async || {
            assert_eq!(ask(&fleet.xrpc(n, &random_did())).await.status, 200);
            said(&replica.log()).1 > said_before[n].1
        })
        .await;
    }
    of_one_caller(&fleet).await.is_shared();
    fleet.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn p11_a_redis_that_hangs_delays_no_request_and_limits_hold() {
    let redis = Redis::start();
    let database = database().await;
    // Redis is also used for single use; its waits would count here.
    let fleet = fleet(&redis, &database, &[PER_DID, ("ENFORCE_JTI", "false")]).await;
    redis.freeze();
    let outcome = of_one_caller(&fleet).await;
    outcome.is_each_replicas_own();
    assert!(outcome.fastest < REDIS_TIMEOUT, "every request waited for Redis, the luckiest {:?}", outcome.fastest);
    fleet.check().await;
}

/// Returns the buckets in Redis.
fn keys(redis: &Redis) -> Vec<String> {
    redis.run(&["keys", "catbird:limit:*"]).into_iter().filter(|key| !key.is_empty()).collect()
}

/// Counts the log lines that say that sharing has stopped, and that it has resumed.
fn said(log: &[String]) -> (usize, usize) {
    let count =
        |what: &str| log.iter().filter(|line| line.contains(what) && line.contains("sharing rate limits")).count();
    (count("Redis does not answer"), count("Redis answers again"))
}
