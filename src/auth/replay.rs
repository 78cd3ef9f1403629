//! Single use: a token's `jti` is spent by its first request, whichever replica that reaches.
//!
//! **PostgreSQL decides, always.** Every acceptance of a token has to conflict with every other one of the same token, so
//! all replicas must ask one and the same register. If that were Redis, a replica that cannot reach Redis could accept
//! nothing at all, and a Redis that restarted empty, evicted a key or failed over to a lagging copy would accept twice.
//! So Redis is never the one that says yes. It only says no sooner: what it remembers as spent is refused without asking
//! PostgreSQL, and that is all that is lost with it. There is no window, whenever Redis dies, returns, or is seen by some
//! replicas and not by others.
//!
//! Two things are left to the register itself. Its table is unlogged, hence empty after a crash of PostgreSQL or a
//! failover: tokens spent before that could be used once more in what is left of their lifetime (five minutes at most).
//! And rows are compared with the clock of the replica that asks, the same that decides whether the token still lives, so
//! clocks that disagree cannot free a row early; whoever deletes old rows has to leave them a margin of an hour for that.
//!
//! Every request spends a token, so they are spent many at a time: what arrived while the last call ran goes into the next.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};

use super::AuthError;
use crate::error::{Code, Error};
use crate::redis::{self, Redis};
use crate::store::Store;

pub use crate::store::nonces::Nonce;

/// What Redis is asked for here, as the log says when it does not answer. PostgreSQL decides alone then.
pub const PURPOSE: &str = "refusing used tokens sooner";

/// What the keys in Redis begin with. A hash follows, so that Redis holds nobody's DID.
const KEY_PREFIX: &str = "catbird:jti:";

/// Most tokens that wait to be spent.
const MOST_WAITING: usize = 10_000;
/// Most tokens in one call.
const BATCH: usize = 256;
/// How long a token may wait for its call.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Most used tokens that this replica knows by itself, and for how long.
const MOST_KNOWN: u64 = 100_000;
const KNOWN_FOR: Duration = Duration::from_secs(300);

/// Where tokens are spent. Cheap to clone.
#[derive(Clone)]
pub enum Replay {
    Postgres(Register),
    /// The same with Redis in front of it.
    Redis(Redis, Register),
}

/// The way to the register. Cheap to clone.
#[derive(Clone)]
pub struct Register {
    /// Tokens that wait to be spent.
    waiting: mpsc::Sender<Spending>,
    /// Tokens that are known here to be used, so that repeating one costs nobody anything.
    known: moka::sync::Cache<Nonce, ()>,
    store: Store,
}

/// One token on its way.
struct Spending {
    nonce: Nonce,
    /// Until when it has to be remembered; no earlier than the token dies.
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    since: Instant,
    /// True if it was not used before.
    reply: oneshot::Sender<Result<bool, Error>>,
}

impl Replay {
    /// Puts Redis in front of the store if there is one.
    pub fn with(redis: Option<Redis>, store: Store) -> Self {
        let (tokens, waiting) = mpsc::channel(MOST_WAITING);
        let runtime = store.runtime().clone();
        runtime.spawn(answer_all(redis.clone(), store.clone(), waiting));
        let known = moka::sync::Cache::builder().max_capacity(MOST_KNOWN).time_to_live(KNOWN_FOR).build();
        let register = Register { waiting: tokens, known, store };
        match redis {
            Some(redis) => Self::Redis(redis, register),
            None => Self::Postgres(register),
        }
    }

    /// The same with a connection of its own, if there is a URL. Fails if that is none.
    pub fn new(redis_url: Option<&str>, store: Store) -> Result<Self, AuthError> {
        let redis = redis_url.map(|url| Redis::connect(url, PURPOSE, store.metrics().clone())).transpose()?;
        Ok(Self::with(redis, store))
    }

    fn register(&self) -> &Register {
        let (Self::Postgres(register) | Self::Redis(_, register)) = self;
        register
    }

    /// Whether the token is known here to be used. If not, it may still be.
    pub fn knows(&self, nonce: &Nonce) -> bool {
        self.register().known.contains_key(nonce)
    }

    /// Whether the token is used, without using it. Where nobody can tell, it is not.
    pub async fn is_spent(&self, nonce: &Nonce, now: DateTime<Utc>) -> bool {
        let register = self.register();
        if !self.knows(nonce) && register.store.is_spent(nonce, now).await.unwrap_or(false) {
            register.known.insert(nonce.clone(), ());
        }
        self.knows(nonce)
    }

    /// Spends a token, which is remembered until `until`. False if it was spent before.
    pub async fn spend(&self, nonce: Nonce, until: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, Error> {
        let register = self.register();
        let (reply, answer) = oneshot::channel();
        let spending = Spending { nonce: nonce.clone(), until, now, since: Instant::now(), reply };
        if register.waiting.try_send(spending).is_err() {
            return Err(too_busy());
        }
        let spent =
            answer.await.unwrap_or_else(|_| Err(Code::InternalServerError.because("the token could not be checked")));
        if spent.is_ok() {
            // Now, or before.
            register.known.insert(nonce, ());
        }
        spent
    }
}

fn too_busy() -> Error {
    Code::Overloaded.because("checking tokens took too long; nothing was changed")
}

/// One call at a time, until nobody can send a token any more.
async fn answer_all(redis: Option<Redis>, store: Store, mut waiting: mpsc::Receiver<Spending>) {
    let mut arrived = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut arrived, BATCH).await > 0 {
        let (late, batch): (Vec<_>, Vec<_>) =
            std::mem::take(&mut arrived).into_iter().partition(|spending| spending.since.elapsed() > LONGEST_WAIT);
        late.into_iter().for_each(|spending| drop(spending.reply.send(Err(too_busy()))));
        // A token that is here twice is used by the first and refused to the second.
        let mut firsts: HashMap<&Nonce, &Spending> = HashMap::new();
        for spending in &batch {
            firsts.entry(&spending.nonce).or_insert(spending);
        }
        let spent = spend_together(redis.as_ref(), &store, firsts.into_values().collect()).await;
        let mut spent = match spent {
            Ok(spent) => spent,
            Err(error) => {
                batch.into_iter().for_each(|spending| drop(spending.reply.send(Err(error.clone()))));
                continue;
            }
        };
        for Spending { nonce, reply, .. } in batch {
            // The client may be gone; its token is spent all the same.
            let _ = reply.send(Ok(spent.remove(&nonce)));
        }
    }
}

/// Spends tokens, none of them twice here, and returns those that were not spent before.
async fn spend_together(
    redis: Option<&Redis>,
    store: &Store,
    mut tokens: Vec<&Spending>,
) -> Result<HashSet<Nonce>, Error> {
    if let Some(redis) = redis {
        let marked = mark_in_redis(redis, &tokens).await;
        redis.note(marked.as_ref().err());
        if let Ok(new) = marked {
            let mut new = new.into_iter();
            tokens.retain(|_| new.next() == Some(1));
        }
    }
    // The earliest time, so that no record counts as ended before it has.
    let Some(now) = tokens.iter().map(|token| token.now).min() else { return Ok(HashSet::new()) };
    let nonces: Vec<_> = tokens.iter().map(|token| (&token.nonce, token.until)).collect();
    let spent = store.spend_nonces(&nonces, now).await;
    if let Some(redis) = redis
        && spent.is_err()
    {
        // They are not spent, as far as anybody knows, and may be sent again.
        let keys: Vec<String> = tokens.iter().map(|token| redis_key(&token.nonce)).collect();
        let forgotten: Result<(), _> = redis.hasty().del(keys).await;
        redis.note(forgotten.err().as_ref());
    }
    spent
}

/// Marks tokens in Redis, in one call; for each in step, 0 if it was marked already, else 1.
async fn mark_in_redis(redis: &Redis, tokens: &[&Spending]) -> Result<Vec<i64>, redis::Error> {
    let mut arguments: Vec<Value> = vec![include_str!("mark.lua").into(), (tokens.len() as i64).into()];
    arguments.extend(tokens.iter().map(|token| redis_key(&token.nonce).into()));
    arguments.extend(tokens.iter().map(|token| (token.until - token.now).num_milliseconds().max(1).into()));
    // The client offers EVAL only without a time limit.
    let eval = CustomCommand::new_static("EVAL", ClusterHash::FirstKey, false);
    redis.hasty().custom(eval, arguments).await
}

/// The bar cannot be part of a DID, so no two nonces share a text.
fn redis_key(nonce: &Nonce) -> String {
    let digest = Sha256::digest(format!("{}|{}", nonce.issuer, nonce.jti));
    KEY_PREFIX.to_owned() + &crate::mls::hex(&digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_redis_names_nobody_and_is_one_nonces_own() {
        let key = |issuer: &str, jti: &str| redis_key(&Nonce { issuer: issuer.parse().unwrap(), jti: jti.to_owned() });
        let a = key("did:plc:alice", "1");
        assert!(a.starts_with("catbird:jti:") && !a.contains("alice") && a.len() == KEY_PREFIX.len() + 64, "{a}");
        assert_ne!(a, key("did:plc:alice", "2"));
        assert_ne!(a, key("did:plc:bob", "1"));
        assert_eq!(a, key("did:plc:alice", "1"));
    }
}
