//! Register of used tokens, which decides whether a token was used before.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::Did;

use super::lanes::Lane;
use super::query::{Query, query};
use super::session::Params;
use super::{Abort, Cause, Reader, Store, deadline, failure};

query! {
    USE = "auth/use_tokens" (INT2_ARRAY, BYTEA_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ_ARRAY);
    USE_LONG = "auth/use_long_tokens" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ);
    FIND = "auth/find_nonce" (BYTEA, TEXT, TEXT, TIMESTAMPTZ, TIMESTAMPTZ);
}

/// Unique identity of a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenId {
    pub issuer: Did,
    pub jti: String,
    /// Time at which it was issued. No replica has accepted it more than ten seconds before.
    pub issued_at: DateTime<Utc>,
    /// Time from which on every replica refuses it.
    pub expires_at: DateTime<Utc>,
    /// True for kinds of tokens with a long lifetime. They have a register of their own, so this must depend on nothing
    /// but the token.
    pub long_lived: bool,
}

/// Digest of a token: the first half of the SHA-256 of its issuer and `jti`. Finding another token with the same digest
/// is infeasible.
pub type TokenDigest = [u8; 16];

impl TokenId {
    /// Returns the digest of the token.
    pub fn digest(&self) -> TokenDigest {
        // A DID cannot contain the bar, so no two tokens have the same text.
        let digest =
            Sha256::new().chain_update(self.issuer.as_str()).chain_update("|").chain_update(&self.jti).finalize();
        let mut used = TokenDigest::default();
        used.copy_from_slice(&digest[..16]);
        used
    }

    /// Returns the slot of the register that has the token, as the function `token_slot` of the database does. It depends
    /// on nothing but the token, so that all who use it meet in one unique index. It is computed here because PostgreSQL
    /// takes longer to compute it than to insert the row.
    fn slot(&self) -> i16 {
        (self.expires_at.timestamp().div_euclid(SLOT_SECONDS) % SLOTS) as i16
    }
}

/// Time whose tokens share a slot, and number of slots (`V025__hour_long_tokens.sql`).
const SLOT_SECONDS: i64 = 600;
const SLOTS: i64 = 16;

/// Pause after a deadlock, which the victim's locks have just ended.
const DEADLOCK_PAUSE: Duration = Duration::from_millis(20);

impl Store {
    /// Returns whether a token is marked as used.
    pub async fn is_used(&self, token_id: &TokenId, now: DateTime<Utc>) -> Result<bool, Error> {
        let TokenId { issuer, jti, expires_at, .. } = token_id;
        let digest = token_id.digest();
        Ok(!self.within(&FIND, &[&digest.as_slice(), &issuer.as_str(), jti, expires_at, &now]).await?.is_empty())
    }

    /// Runs a statement, which is a transaction by itself, within [`deadline::TOKENS`], including the wait for a
    /// connection.
    ///
    /// All replicas lock tokens in the same order, but replicas of an earlier build used another one. If PostgreSQL
    /// ends this statement because of a deadlock, it is retried after a pause, in which the other one gets its lock.
    pub(super) async fn within(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Error> {
        let asking = async {
            let reader = Reader(self.session(Lane::Vital).await?);
            loop {
                match reader.rows_within(deadline::TOKENS, query, params).await {
                    Err(Abort::Again(cause @ Cause::Deadlock)) => {
                        self.metrics.transaction_retried(query.name, cause);
                        tokio::time::sleep(DEADLOCK_PAUSE).await;
                    }
                    rows => break rows,
                }
            }
        };
        match tokio::time::timeout(deadline::TOKENS, asking).await {
            Ok(rows) => rows.map_err(Error::from),
            Err(_) => Err(failure::overloaded("checking tokens")),
        }
    }

    /// Marks tokens as used, in one statement for each lifetime, and returns for each whether it was unused. No token may
    /// occur twice. Tokens with a long lifetime are remembered until the given time; a record that ended before `now`
    /// counts as none. If there are tokens of both lifetimes and the second statement fails, the first has used its tokens.
    pub async fn consume_tokens(
        &self,
        ids: &[(&TokenId, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<Vec<bool>, Error> {
        let (long, short): (Vec<_>, Vec<_>) = ids.iter().copied().partition(|(token_id, _)| token_id.long_lived);
        let short: Vec<&TokenId> = short.into_iter().map(|(token_id, _)| token_id).collect();
        let new = self.use_tokens(&short).await?;
        let new_long = self.use_long_tokens(&long, now).await?;
        Ok(ids.iter().map(|(token_id, _)| new.contains(&token_id.digest()) || new_long.contains(token_id)).collect())
    }

    /// Returns the digests of those that were unused.
    async fn use_tokens(&self, ids: &[&TokenId]) -> Result<HashSet<TokenDigest>, Error> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let slots: Vec<i16> = ids.iter().map(|token_id| token_id.slot()).collect();
        let digests: Vec<TokenDigest> = ids.iter().map(|token_id| token_id.digest()).collect();
        let digests: Vec<&[u8]> = digests.iter().map(TokenDigest::as_slice).collect();
        let expires_at: Vec<DateTime<Utc>> = ids.iter().map(|token_id| token_id.expires_at).collect();
        let issued_at: Vec<DateTime<Utc>> = ids.iter().map(|token_id| token_id.issued_at).collect();
        // One statement is a transaction by itself.
        let rows = self.within(&USE, &[&slots, &digests, &expires_at, &issued_at]).await?;
        let digest = |row: &Row| row.get::<_, &[u8]>("token").try_into().expect("it is one of those that were sent");
        Ok(rows.iter().map(digest).collect())
    }

    /// Returns those that were unused.
    async fn use_long_tokens<'a>(
        &self,
        ids: &[(&'a TokenId, DateTime<Utc>)],
        now: DateTime<Utc>,
    ) -> Result<HashSet<&'a TokenId>, Error> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let issuers: Vec<&str> = ids.iter().map(|(token_id, _)| token_id.issuer.as_str()).collect();
        let jtis: Vec<&str> = ids.iter().map(|(token_id, _)| token_id.jti.as_str()).collect();
        let until: Vec<DateTime<Utc>> = ids.iter().map(|(_, until)| *until).collect();
        let rows = self.within(&USE_LONG, &[&issuers, &jtis, &until, &now]).await?;
        let new: HashSet<(&str, &str)> = rows.iter().map(|row| (row.get("issuer_did"), row.get("jti"))).collect();
        let is_new = |token_id: &&TokenId| new.contains(&(token_id.issuer.as_str(), token_id.jti.as_str()));
        Ok(ids.iter().map(|(token_id, _)| *token_id).filter(is_new).collect())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::super::StoreConfig;
    use super::*;
    use crate::clock::Clock;
    use crate::metrics::Registry;
    use crate::store::StoreMetrics;
    use catbird_testkit::cluster::database;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_deadlock_victim_uses_its_tokens_after_a_retry() {
        let database = database().await;
        let (other, watch) = (database.connect().await, database.connect().await);
        // A waiting transaction checks for deadlocks once, after this time. By then the other one must be waiting.
        let soon =
            "do $$ begin execute format('alter database %I set deadlock_timeout = 700', current_database()); end $$";
        watch.batch_execute(soon).await.unwrap();
        let config = StoreConfig { database: database.config.clone(), max_connections: 2, pooler: false };
        let store = Store::new(config, StoreMetrics::register(&mut Registry::default())).unwrap();
        let now = Clock::system().now();
        let token_id = |jti: &str| TokenId {
            issuer: "did:plc:alice".parse().unwrap(),
            jti: jti.to_owned(),
            issued_at: now,
            expires_at: now + TimeDelta::seconds(60),
            long_lived: false,
        };
        let mut tokens = [token_id("1"), token_id("2")];
        tokens.sort_by_key(TokenId::digest);
        let [first, second] = tokens;
        // Opens a connection.
        assert!(!store.is_used(&first, now).await.unwrap());
        // The other transaction locks them in the other order, and does not detect the deadlock.
        other.batch_execute("set deadlock_timeout = '30s'; begin").await.unwrap();
        let take = "insert into used_tokens (slot, token) values (token_slot($1), $2)";
        other.execute(take, &[&second.expires_at, &second.digest().as_slice()]).await.unwrap();
        let spending = tokio::spawn({
            let (store, first, second) = (store.clone(), first.clone(), second.clone());
            async move { store.consume_tokens(&[(&first, first.expires_at), (&second, second.expires_at)], now).await }
        });
        let waits = "select exists (select from pg_locks where not granted and locktype = 'transactionid')";
        while !watch.query_one(waits, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        other.execute(take, &[&first.expires_at, &first.digest().as_slice()]).await.unwrap();
        other.batch_execute("rollback").await.unwrap();
        assert_eq!(spending.await.unwrap().unwrap(), [true, true]);
        assert_eq!(store.consume_tokens(&[(&first, first.expires_at)], now).await.unwrap(), [false]);
    }
}
