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

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use fred::clients::Client;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::config::{Config, Options, ReconnectPolicy};
use fred::types::{Builder, Expiration, SetOptions};
use sha2::{Digest, Sha256};

use super::{AuthError, tls};
use crate::error::Error;
use crate::ids::Did;
use crate::store::Store;

/// How long Redis may take to answer before it is left out.
const REDIS_TIMEOUT: Duration = Duration::from_millis(50);

/// How long to wait before connecting to Redis again, in milliseconds: the first time, and at most.
const RECONNECT_MS: (u32, u32) = (100, 5_000);

/// What the keys in Redis begin with. A hash follows, so that Redis holds nobody's DID.
const KEY_PREFIX: &str = "catbird:jti:";

/// Where spent tokens are remembered.
#[derive(Clone)]
pub enum Replay {
    Postgres(Store),
    /// The same with Redis in front of it, and whether that answered when it was last asked.
    Redis(Client, Arc<AtomicBool>, Store),
}

/// One token's single use.
#[derive(Debug, Clone, Copy)]
pub struct Nonce<'a> {
    pub issuer: &'a Did,
    pub jti: &'a str,
    /// Until when it has to be remembered; no earlier than the token dies.
    pub expires_at: DateTime<Utc>,
}

impl Replay {
    /// Puts Redis in front of the store if there is a URL. Fails if that is none; a Redis that is not there yet is no
    /// failure, it is connected to in the background.
    pub fn new(redis_url: Option<&str>, store: Store) -> Result<Self, AuthError> {
        let Some(url) = redis_url else { return Ok(Self::Postgres(store)) };
        tls::install();
        let config = Config { fail_fast: false, ..Config::from_url(url)? };
        let (first, most) = RECONNECT_MS;
        let forever = 0;
        let client = Builder::from_config(config)
            .set_policy(ReconnectPolicy::new_exponential(forever, first, most, 2))
            .build()?;
        client.connect();
        Ok(Self::Redis(client, Arc::new(AtomicBool::new(true)), store))
    }

    /// Spends the nonce. False if it was spent before.
    pub async fn spend(&self, nonce: Nonce<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        let (redis, store) = match self {
            Self::Postgres(store) => (None, store),
            Self::Redis(redis, answers, store) => (Some((redis, answers)), store),
        };
        if let Some((redis, answers)) = redis {
            let marked = mark_in_redis(redis, nonce, now).await;
            note(answers, store, marked.as_ref().err());
            if let Ok(false) = marked {
                return Ok(false);
            }
        }
        let spent = store.spend_nonce(nonce.issuer, nonce.jti, nonce.expires_at, now).await;
        if let Some((redis, answers)) = redis
            && spent.is_err()
        {
            // The token is not spent, as far as anybody knows, and may be sent again.
            let forgotten: Result<(), _> = hasty(redis).del(redis_key(nonce)).await;
            note(answers, store, forgotten.err().as_ref());
        }
        spent
    }
}

/// Marks the nonce in Redis. False if it is marked already.
async fn mark_in_redis(redis: &Client, nonce: Nonce<'_>, now: DateTime<Utc>) -> Result<bool, fred::error::Error> {
    let milliseconds = (nonce.expires_at - now).num_milliseconds().max(1);
    let expiration = Some(Expiration::PX(milliseconds));
    let set: Option<String> = hasty(redis).set(redis_key(nonce), 1, expiration, Some(SetOptions::NX), false).await?;
    Ok(set.is_some())
}

/// Redis with a time limit, and refusing at once while the connection is down.
fn hasty(redis: &Client) -> impl KeysInterface + use<> {
    redis.with_options(&Options {
        timeout: Some(REDIS_TIMEOUT),
        fail_fast: true,
        max_attempts: Some(1),
        ..Options::default()
    })
}

/// Says when Redis stops answering, and when it answers again.
fn note(answers: &AtomicBool, store: &Store, failure: Option<&fred::error::Error>) {
    store.metrics().redis_answers(failure.is_none());
    if answers.swap(failure.is_none(), Ordering::Relaxed) == failure.is_none() {
        return;
    }
    match failure {
        Some(cause) => tracing::warn!(%cause, "Redis does not answer; PostgreSQL decides alone"),
        None => tracing::warn!("Redis answers again"),
    }
}

/// The bar cannot be part of a DID, so no two nonces share a text.
fn redis_key(nonce: Nonce<'_>) -> String {
    let digest = Sha256::digest(format!("{}|{}", nonce.issuer, nonce.jti));
    digest.iter().fold(KEY_PREFIX.to_owned(), |key, byte| key + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_in_redis_names_nobody_and_is_one_nonces_own() {
        let key = |issuer: &str, jti: &str| {
            redis_key(Nonce { issuer: &issuer.parse().unwrap(), jti, expires_at: DateTime::UNIX_EPOCH })
        };
        let a = key("did:plc:alice", "1");
        assert!(a.starts_with("catbird:jti:") && !a.contains("alice") && a.len() == KEY_PREFIX.len() + 64, "{a}");
        assert_ne!(a, key("did:plc:alice", "2"));
        assert_ne!(a, key("did:plc:bob", "1"));
        assert_eq!(a, key("did:plc:alice", "1"));
    }
}
