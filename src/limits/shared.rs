//! Sharing of limits between replicas through Redis; no request ever waits for it.
//!
//! Each replica decides by its own buckets. A task sends the charges to Redis in batches: those that arrive during one
//! call, or shortly after it, go into the next. Redis adds the charges of all replicas and returns how far ahead each
//! bucket is, which is merged into the replica's own. Together the replicas exceed a limit only by what they accept
//! during one round trip and that pause. Without Redis, or if too many charges wait, each replica counts alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::sync::mpsc;

use crate::background::{Background, tasks};
use crate::redis::{self, Redis};

use super::buckets::Key;
use super::metrics::{LimitMetrics, Unshared};
use super::{AllBuckets, Scope};

/// Maximum number of charges that wait to be sent.
const MAX_WAITING: usize = 10_000;
/// Maximum number of charges in one call.
const MAX_BATCH: usize = 512;
/// Pause between two calls, which merges frequent charges and limits the load on Redis.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(2);
/// Prefix of the keys in Redis. The scope and a hash follow, so that Redis stores no DID.
const KEY_PREFIX: &str = "catbird:limit:";

/// Bucket of a charge.
type BucketId = (Scope, Key);
/// A charge that waits, as time at the limit's rate.
type Charge = (BucketId, Duration);

/// Sender of charges. Cheap to clone.
#[derive(Clone)]
pub struct Sharing {
    charges: mpsc::Sender<Charge>,
    metrics: LimitMetrics,
}

impl Sharing {
    /// Starts the task. It ends when the last clone of this value is dropped.
    pub fn start(redis: Redis, buckets: Arc<AllBuckets>, metrics: LimitMetrics, background: &Background) -> Self {
        let (charges, mut waiting) = mpsc::channel(MAX_WAITING);
        let sharing = Self { charges, metrics: metrics.clone() };
        background.start(&tasks::RATE_LIMIT_SHARING, async move {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
                let sent = send(&redis, &buckets, &batch).await;
                redis.note(sent.as_ref().err());
                if sent.is_err() {
                    metrics.unshared(Unshared::Redis, batch.len());
                }
                batch.clear();
                tokio::time::sleep(PUBLISH_INTERVAL).await;
            }
        });
        sharing
    }

    /// Queues a charge for the other replicas; drops it if too many wait.
    pub fn publish(&self, scope: Scope, key: Key, cost: Duration) {
        if self.charges.try_send(((scope, key), cost)).is_err() {
            self.metrics.unshared(Unshared::QueueFull, 1);
        }
    }
}

/// Sends one batch to Redis and merges the reply.
async fn send(redis: &Redis, buckets: &AllBuckets, batch: &[Charge]) -> Result<(), redis::Error> {
    let mut sums: HashMap<BucketId, Duration> = HashMap::new();
    for (bucket, cost) in batch {
        *sums.entry(*bucket).or_default() += *cost;
    }
    let sums: Vec<Charge> = sums.into_iter().collect();
    let mut arguments: Vec<Value> = vec![include_str!("charge.lua").into(), (sums.len() as i64).into()];
    arguments.extend(sums.iter().map(|((scope, key), _)| redis_key(*scope, *key).into()));
    arguments
        .extend(sums.iter().flat_map(|((scope, _), cost)| [micros(buckets.of(*scope).max_ahead()), micros(*cost)]));
    // The client offers EVAL only without a time limit.
    let eval = CustomCommand::new_static("EVAL", ClusterHash::FirstKey, false);
    let asked = Instant::now();
    let ahead: Vec<u64> = redis.with_timeout().custom(eval, arguments).await?;
    for (((scope, key), _), ahead) in sums.into_iter().zip(ahead) {
        // As of the time of the call, so that the reply's delay is not charged.
        buckets.of(scope).merge(key, Duration::from_micros(ahead), asked);
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
    fn a_key_in_redis_reveals_no_did_and_is_unique_to_its_bucket() {
        let key = |scope, name| redis_key(scope, Key::of(name));
        let alice = key(Scope::Did, "did:plc:alice");
        assert!(alice.starts_with("catbird:limit:did:") && !alice.contains("alice"), "{alice}");
        assert_ne!(alice, key(Scope::Did, "did:plc:bob"));
        assert_ne!(alice, key(Scope::Convo, "did:plc:alice"));
        assert_eq!(alice, key(Scope::Did, "did:plc:alice"));
    }
}
