//! Replay register: a token's `jti` is used by its first request, at whichever replica that arrives.
//!
//! **PostgreSQL always decides.** Two uses of one token must conflict, so all replicas must ask the same register. A
//! register in Redis would accept nothing while Redis is unreachable, and would accept tokens twice after Redis
//! restarts empty, evicts a key or fails over to a stale copy. Redis therefore only carries hints: replicas publish the
//! tokens that they have used, and refuse tokens that they know to be used without asking PostgreSQL. No request waits
//! for Redis, and its loss opens no window.
//!
//! The register's tables are unlogged, so they are empty after a crash of PostgreSQL or a failover. Tokens that live
//! longer than five minutes and were made before the crash or in the minute after it then count as used. Shorter tokens
//! could be used once more in the rest of their lifetime; refusing them too would refuse every caller for that minute.
//! `V022__used_tokens.sql` and `V025__hour_long_tokens.sql` show that no clock deletes a record early.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use ulid::Ulid;

use super::token::SERVICE_TOKEN_SECONDS;
use crate::background::{Background, tasks};
use crate::clock::LEEWAY_SECONDS;
use crate::error::{Code, Error};
use crate::redis::{Listener, Redis};
use crate::store::Store;

pub use crate::store::nonces::{TokenDigest, TokenId};

/// Purpose of Redis here, as the log says when Redis does not answer.
pub const PURPOSE: &str = "sharing used tokens between replicas";

/// Channel on which used tokens are published, as digests, so that Redis learns no DID.
const CHANNEL: &str = "catbird:used";
/// Minimum time between two messages on that channel, and maximum number of tokens in one.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);
const MAX_PUBLISHED: usize = 1_000;

/// Maximum number of tokens that wait to be checked.
const MAX_WAITING: usize = 10_000;
/// Maximum number of tokens in one call.
const MAX_BATCH: usize = 256;
/// Maximum time that a token waits for its call.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Maximum number of used tokens that this replica remembers, and for how long: the maximum lifetime of an account's
/// token.
const MAX_KNOWN: u64 = 100_000;
const KNOWN_LIFETIME: Duration = Duration::from_secs((SERVICE_TOKEN_SECONDS + LEEWAY_SECONDS) as u64);

/// The replay register. Cheap to clone.
#[derive(Clone)]
pub struct Replay {
    /// Tokens that wait to be checked.
    waiting: mpsc::Sender<Pending>,
    /// Tokens that this replica knows to be used; repeating one costs no query.
    known: moka::sync::Cache<TokenDigest, ()>,
    /// Used tokens that wait to be published, if there is Redis.
    unpublished: Option<mpsc::Sender<TokenDigest>>,
    store: Store,
    redis: Option<Redis>,
}

/// A token that waits to be checked.
struct Pending {
    token_id: TokenId,
    used: TokenDigest,
    /// End of the record if the token may live for long; no earlier than the token's own end.
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    since: Instant,
    /// Receives true if the token was not used before.
    reply: oneshot::Sender<Result<bool, Error>>,
}

impl Replay {
    /// Starts the tasks: one that checks tokens, and with Redis two that publish and receive used ones.
    pub fn with(redis: Option<Redis>, store: Store, background: &Background) -> Self {
        let (tokens, waiting) = mpsc::channel(MAX_WAITING);
        background.start(&tasks::TOKEN_REGISTER, consume_all(store.clone(), waiting));
        let known = moka::sync::Cache::builder().max_capacity(MAX_KNOWN).time_to_live(KNOWN_LIFETIME).build();
        let unpublished = redis.as_ref().map(|redis| {
            let (unpublished, waiting_to_publish) = mpsc::channel(MAX_WAITING);
            let me = Ulid::new().to_string();
            let listener = redis.listener(vec![CHANNEL.to_owned()], Arc::new(AtomicBool::new(false)));
            background.start(&tasks::USED_TOKEN_RECEIVER, receive_all(listener, known.clone(), me.clone()));
            background.start(&tasks::USED_TOKEN_PUBLISHER, publish_all(redis.clone(), waiting_to_publish, me));
            unpublished
        });
        Self { waiting: tokens, known, unpublished, store, redis }
    }

    /// Connection to Redis, if there is one, for the health check.
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Returns true if this replica knows the token to be used. A token that it does not know may be used too.
    pub fn knows(&self, token_id: &TokenId) -> bool {
        self.known.contains_key(&token_id.digest())
    }

    /// Checks whether the token is used, without using it. Returns false if the database cannot be asked.
    pub async fn is_used(&self, token_id: &TokenId, now: DateTime<Utc>) -> bool {
        if !self.knows(token_id) && self.store.is_used(token_id, now).await.unwrap_or(false) {
            self.known.insert(token_id.digest(), ());
        }
        self.knows(token_id)
    }

    /// Uses a token. The record stays until the token has expired and, for a token that may live for long, until
    /// `until`. Returns false if the token was used before.
    pub async fn consume(&self, token_id: TokenId, until: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, Error> {
        let used = token_id.digest();
        let (reply, answer) = oneshot::channel();
        let pending = Pending { token_id, used, until, now, since: Instant::now(), reply };
        if self.waiting.try_send(pending).is_err() {
            return Err(too_busy());
        }
        let outcome =
            answer.await.unwrap_or_else(|_| Err(Code::InternalServerError.because("the token could not be checked")));
        if let Ok(first) = outcome {
            // By this call or by an earlier one.
            self.known.insert(used, ());
            if let (true, Some(unpublished)) = (first, &self.unpublished) {
                // If the queue is full, the other replicas ask PostgreSQL.
                let _ = unpublished.try_send(used);
            }
        }
        outcome
    }
}

/// Publishes used tokens to the other replicas, in batches.
async fn publish_all(redis: Redis, mut waiting_to_publish: mpsc::Receiver<TokenDigest>, me: String) {
    let mut used = Vec::with_capacity(MAX_PUBLISHED);
    while waiting_to_publish.recv_many(&mut used, MAX_PUBLISHED).await > 0 {
        redis.publish(CHANNEL, encode(&me, &used)).await;
        used.clear();
        tokio::time::sleep(PUBLISH_INTERVAL).await;
    }
}

/// Receives the tokens that other replicas have used.
async fn receive_all(mut listener: Listener, known: moka::sync::Cache<TokenDigest, ()>, me: String) {
    // Replicas that miss a message ask PostgreSQL.
    while let Some((_, text)) = listener.next().await {
        decode(&text, &me).for_each(|used| known.insert(used, ()));
    }
}

/// Encodes a message: the sender, then the digests of used tokens.
fn encode(me: &str, used: &[TokenDigest]) -> String {
    let mut text = String::with_capacity(me.len() + used.len() * 33);
    text.push_str(me);
    for used in used {
        text.push(' ');
        text.push_str(&crate::hex::encode(used));
    }
    text
}

/// Decodes the tokens of a message; none if this replica sent it. Words that do not parse are skipped.
fn decode<'a>(text: &'a str, me: &str) -> impl Iterator<Item = TokenDigest> + 'a {
    let mut words = text.split(' ');
    let from_others = words.next() != Some(me);
    words.filter(move |_| from_others).filter_map(|word| Some(u128::from_str_radix(word, 16).ok()?.to_be_bytes()))
}

fn too_busy() -> Error {
    Code::Overloaded.because("checking tokens took too long; nothing was changed")
}

/// Checks waiting tokens in batches, one call at a time, until all senders are dropped.
async fn consume_all(store: Store, mut waiting: mpsc::Receiver<Pending>) {
    let mut arrived = Vec::with_capacity(MAX_BATCH);
    while waiting.recv_many(&mut arrived, MAX_BATCH).await > 0 {
        // A call for each register, so that tokens of one that does not answer keep none of the other from their outcome.
        let (long, short): (Vec<_>, Vec<_>) = arrived.drain(..).partition(|pending| pending.token_id.long_lived);
        for tokens in [short, long] {
            consume_batch(&store, tokens).await;
        }
    }
}

/// Checks tokens of one register, and answers them.
async fn consume_batch(store: &Store, tokens: Vec<Pending>) {
    // If a batch holds a token twice, the first request uses it and the second is refused.
    let (mut firsts, mut seconds, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for pending in tokens {
        if pending.since.elapsed() > MAX_WAIT {
            let _ = pending.reply.send(Err(too_busy()));
        } else if seen.insert(pending.used) {
            firsts.push(pending);
        } else {
            seconds.push(pending);
        }
    }
    // The earliest time, so that no record counts as expired too early.
    let Some(now) = firsts.iter().map(|token| token.now).min() else { return };
    let ids: Vec<_> = firsts.iter().map(|token| (&token.token_id, token.until)).collect();
    let answers: Vec<Result<bool, Error>> = match store.consume_tokens(&ids, now).await {
        Ok(outcome) => outcome.into_iter().chain(seconds.iter().map(|_| false)).map(Ok).collect(),
        Err(error) => firsts.iter().chain(&seconds).map(|_| Err(error.clone())).collect(),
    };
    for (token, answer) in firsts.into_iter().chain(seconds).zip(answers) {
        // The client may have gone away; its token is used all the same.
        let _ = token.reply.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(issuer: &str, jti: &str) -> TokenDigest {
        let issuer = issuer.parse().unwrap();
        TokenId {
            issuer,
            jti: jti.to_owned(),
            issued_at: DateTime::UNIX_EPOCH,
            expires_at: DateTime::UNIX_EPOCH,
            long_lived: false,
        }
        .digest()
    }

    #[test]
    fn a_token_digest_is_unique_to_its_token() {
        let a = used("did:plc:alice", "1");
        assert_ne!(a, used("did:plc:alice", "2"));
        assert_ne!(a, used("did:plc:bob", "1"));
        assert_eq!(a, used("did:plc:alice", "1"));
    }

    #[test]
    fn a_message_reveals_no_did_and_is_ignored_by_its_sender() {
        let tokens = [used("did:plc:alice", "1"), [0; 16], used("did:plc:bob", "2")];
        let text = encode("me", &tokens);
        assert!(!text.contains("plc"), "{text}");
        assert_eq!(decode(&text, "another").collect::<Vec<_>>(), tokens);
        assert_eq!(decode(&text, "me").count(), 0);
        assert_eq!(decode("another not-a-token 0g", "me").count(), 0);
        assert_eq!(decode("", "me").count(), 0);
    }
}
