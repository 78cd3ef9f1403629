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

use chrono::{DateTime, Utc};
use fred::interfaces::KeysInterface;
use fred::types::{Expiration, SetOptions};
use sha2::{Digest, Sha256};

use super::AuthError;
use crate::error::Error;
use crate::ids::Did;
use crate::redis::{self, Redis};
use crate::store::Store;

/// What Redis is asked for here, as the log says when it does not answer. PostgreSQL decides alone then.
pub const PURPOSE: &str = "refusing used tokens sooner";

/// What the keys in Redis begin with. A hash follows, so that Redis holds nobody's DID.
const KEY_PREFIX: &str = "catbird:jti:";

/// Where spent tokens are remembered.
#[derive(Clone)]
pub enum Replay {
    Postgres(Store),
    /// The same with Redis in front of it.
    Redis(Redis, Store),
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
    /// Puts Redis in front of the store if there is one.
    pub fn with(redis: Option<Redis>, store: Store) -> Self {
        match redis {
            Some(redis) => Self::Redis(redis, store),
            None => Self::Postgres(store),
        }
    }

    /// The same with a connection of its own, if there is a URL. Fails if that is none.
    pub fn new(redis_url: Option<&str>, store: Store) -> Result<Self, AuthError> {
        let redis = redis_url.map(|url| Redis::connect(url, PURPOSE, store.metrics().clone())).transpose()?;
        Ok(Self::with(redis, store))
    }

    /// Spends the nonce. False if it was spent before.
    pub async fn spend(&self, nonce: Nonce<'_>, now: DateTime<Utc>) -> Result<bool, Error> {
        let (redis, store) = match self {
            Self::Postgres(store) => (None, store),
            Self::Redis(redis, store) => (Some(redis), store),
        };
        if let Some(redis) = redis {
            let marked = mark_in_redis(redis, nonce, now).await;
            redis.note(marked.as_ref().err());
            if let Ok(false) = marked {
                return Ok(false);
            }
        }
        let spent = store.spend_nonce(nonce.issuer, nonce.jti, nonce.expires_at, now).await;
        if let Some(redis) = redis
            && spent.is_err()
        {
            // The token is not spent, as far as anybody knows, and may be sent again.
            let forgotten: Result<(), _> = redis.hasty().del(redis_key(nonce)).await;
            redis.note(forgotten.err().as_ref());
        }
        spent
    }
}

/// Marks the nonce in Redis. False if it is marked already.
async fn mark_in_redis(redis: &Redis, nonce: Nonce<'_>, now: DateTime<Utc>) -> Result<bool, redis::Error> {
    let milliseconds = (nonce.expires_at - now).num_milliseconds().max(1);
    let expiration = Some(Expiration::PX(milliseconds));
    let set: Option<String> = redis.hasty().set(redis_key(nonce), 1, expiration, Some(SetOptions::NX), false).await?;
    Ok(set.is_some())
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
