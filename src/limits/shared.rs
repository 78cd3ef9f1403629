//! Replicas share their limits through Redis, and no request ever waits for it.
//!
//! Each replica decides by its own buckets. A task tells Redis what was charged here, many at a time: what came in while the
//! last call ran, or shortly after, goes into the next. Redis adds up what all replicas say and answers how far ahead each bucket is, and that goes
//! into the replica's own. So together they let through too much only what they accept during one round trip and that pause. Without Redis,
//! and when more is charged than it can be told, each replica keeps the limits alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::metrics::{Metrics, Unshared};
use crate::redis::{self, Redis};

use super::buckets::Key;
use super::{AllBuckets, Scope};

/// Most charges that wait to be told.
const MOST_WAITING: usize = 10_000;
/// Most charges in one call.
const BATCH: usize = 512;
/// The pause between two calls: what is charged often is told once, and Redis is no busier than it has to be.
const GAP: Duration = Duration::from_millis(2);
/// What the keys in Redis begin with. The scope and a hash follow, so that Redis holds nobody's DID.
const KEY_PREFIX: &str = "catbird:limit:";

/// Whose bucket a charge went to.
type Whose = (Scope, Key);
/// One charge on its way, as time at the limit's rate.
type Charge = (Whose, Duration);

/// Where charges are told. Cheap to clone.
#[derive(Clone)]
pub struct Sharing {
    charges: mpsc::Sender<Charge>,
    metrics: Metrics,
}

impl Sharing {
    /// Starts the task. It ends with the last clone of this value.
    pub fn start(redis: Redis, buckets: Arc<AllBuckets>, metrics: Metrics, runtime: &Handle) -> Self {
        let (charges, mut waiting) = mpsc::channel(MOST_WAITING);
        let sharing = Self { charges, metrics: metrics.clone() };
        runtime.spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while waiting.recv_many(&mut batch, BATCH).await > 0 {
                let told = tell(&redis, &buckets, &batch).await;
                redis.note(told.as_ref().err());
                if told.is_err() {
                    metrics.rate_limit_unshared(Unshared::Redis, batch.len());
                }
                batch.clear();
                tokio::time::sleep(GAP).await;
            }
        });
        sharing
    }

    /// Tells the others of one charge, some time soon, or not at all when too many wait.
    pub fn tell(&self, scope: Scope, key: Key, cost: Duration) {
        if self.charges.try_send(((scope, key), cost)).is_err() {
            self.metrics.rate_limit_unshared(Unshared::QueueFull, 1);
        }
    }
}

/// One call to Redis, and what it answers.
async fn tell(redis: &Redis, buckets: &AllBuckets, batch: &[Charge]) -> Result<(), redis::Error> {
    let mut sums: HashMap<Whose, Duration> = HashMap::new();
    for (whose, cost) in batch {
        *sums.entry(*whose).or_default() += *cost;
    }
    let sums: Vec<Charge> = sums.into_iter().collect();
    let mut arguments: Vec<Value> = vec![include_str!("charge.lua").into(), (sums.len() as i64).into()];
    arguments.extend(sums.iter().map(|((scope, key), _)| redis_key(*scope, *key).into()));
    arguments
        .extend(sums.iter().flat_map(|((scope, _), cost)| [micros(buckets.of(*scope).most_ahead()), micros(*cost)]));
    // The client offers EVAL only without a time limit.
    let eval = CustomCommand::new_static("EVAL", ClusterHash::FirstKey, false);
    let asked = Instant::now();
    let ahead: Vec<u64> = redis.hasty().custom(eval, arguments).await?;
    for (((scope, key), _), ahead) in sums.into_iter().zip(ahead) {
        // As of the question, so that nobody pays for the time that the answer took.
        buckets.of(scope).learn(key, Duration::from_micros(ahead), asked);
    }
    Ok(())
}

fn micros(time: Duration) -> Value {
    (time.as_micros() as i64).into()
}

fn redis_key(scope: Scope, key: Key) -> String {
    format!("{KEY_PREFIX}{}:{}", scope.label(), crate::hex::encode(key.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_redis_names_nobody_and_is_one_buckets_own() {
        let key = |scope, name| redis_key(scope, Key::of(name));
        let alice = key(Scope::Did, "did:plc:alice");
        assert!(alice.starts_with("catbird:limit:did:") && !alice.contains("alice"), "{alice}");
        assert_ne!(alice, key(Scope::Did, "did:plc:bob"));
        assert_ne!(alice, key(Scope::Convo, "did:plc:alice"));
        assert_eq!(alice, key(Scope::Did, "did:plc:alice"));
    }
}
