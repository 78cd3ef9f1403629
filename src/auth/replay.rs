//! Single use: a token's `jti` is spent by its first request, whichever replica that reaches.
//!
//! **PostgreSQL decides, always.** Every acceptance of a token has to conflict with every other one of the same token, so
//! all replicas must ask one and the same register. If that were Redis, a replica that cannot reach Redis could accept
//! nothing at all, and a Redis that restarted empty, evicted a key or failed over to a lagging copy would accept twice.
//! So nobody asks Redis. Through it replicas tell each other which tokens are used, and what a replica knows to be used it refuses
//! without asking PostgreSQL. That is all that is lost with it, and no request waits for it: there is no window, whenever Redis dies,
//! returns, or is seen by some replicas and not by others.
//!
//! Two things are left to the register itself. Its tables are unlogged, hence empty after a crash of PostgreSQL or a
//! failover. Tokens that are made to live for longer than five minutes count as used if they were made before it or in the minute after,
//! and are refused. Others could be used once more in what is left of their lifetime: if they were refused too, nobody could call in that
//! minute.
//! And no clock may free a record early. The tokens of accounts and tickets, which live for an hour at most, have slots that are emptied
//! when everything in them has long been dead by PostgreSQL's clock, and by that clock a token is refused whose slot may have been emptied
//! (`V022__used_tokens.sql` has the argument, `V025__hour_long_tokens.sql` the figures). Development tokens live for up to a day; their
//! rows are compared with the clock of the replica that asks, the same that decides whether the token still lives, and are deleted an hour
//! after their end.
//!
//! Every request spends a token, so they are spent many at a time: what arrived while the last call ran goes into the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};
use ulid::Ulid;

use super::AuthError;
use super::token::SERVICE_TOKEN_SECONDS;
use crate::clock::LEEWAY_SECONDS;
use crate::error::{Code, Error};
use crate::redis::{Listener, Redis};
use crate::store::Store;

pub use crate::store::nonces::{Nonce, Used};

/// What Redis is for here, as the log says when it does not answer.
pub const PURPOSE: &str = "telling replicas of used tokens";

/// Where used tokens are told, by their digests, so that Redis learns nobody's DID.
const USED: &str = "catbird:used";
/// The shortest time between two messages of that kind, and most tokens in one.
const GAP: Duration = Duration::from_millis(50);
const TOLD_AT_ONCE: usize = 1_000;

/// Most tokens that wait to be spent.
const MOST_WAITING: usize = 10_000;
/// Most tokens in one call.
const BATCH: usize = 256;
/// How long a token may wait for its call.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Most used tokens that this replica knows by itself, and for how long: as long as an account's token may live.
const MOST_KNOWN: u64 = 100_000;
const KNOWN_FOR: Duration = Duration::from_secs((SERVICE_TOKEN_SECONDS + LEEWAY_SECONDS) as u64);

/// Where tokens are spent. Cheap to clone.
#[derive(Clone)]
pub struct Replay {
    /// Tokens that wait to be spent.
    waiting: mpsc::Sender<Spending>,
    /// Tokens that are known here to be used, so that repeating one costs nobody anything.
    known: moka::sync::Cache<Used, ()>,
    /// Used tokens that the other replicas have not been told of, if they can be.
    untold: Option<mpsc::Sender<Used>>,
    store: Store,
    redis: Option<Redis>,
}

/// One token on its way.
struct Spending {
    nonce: Nonce,
    used: Used,
    /// Until when it has to be remembered if it may live for long; no earlier than it dies.
    until: DateTime<Utc>,
    now: DateTime<Utc>,
    since: Instant,
    /// True if it was not used before.
    reply: oneshot::Sender<Result<bool, Error>>,
}

impl Replay {
    /// Starts spending, on the store's runtime, and telling the other replicas if there is Redis.
    pub fn with(redis: Option<Redis>, store: Store) -> Self {
        let (tokens, waiting) = mpsc::channel(MOST_WAITING);
        let runtime = store.runtime().clone();
        runtime.spawn(answer_all(store.clone(), waiting));
        let known = moka::sync::Cache::builder().max_capacity(MOST_KNOWN).time_to_live(KNOWN_FOR).build();
        let untold = redis.as_ref().map(|redis| {
            let (untold, telling) = mpsc::channel(MOST_WAITING);
            let me = Ulid::new().to_string();
            let listener = redis.listener(vec![USED.to_owned()], Arc::new(AtomicBool::new(false)));
            runtime.spawn(hear(listener, known.clone(), me.clone()));
            runtime.spawn(tell(redis.clone(), telling, me));
            untold
        });
        Self { waiting: tokens, known, untold, store, redis }
    }

    /// The same with a connection of its own, if there is a URL. Fails if that is none.
    pub fn new(redis_url: Option<&str>, store: Store) -> Result<Self, AuthError> {
        let redis = redis_url.map(|url| Redis::connect(url, PURPOSE, store.metrics().clone())).transpose()?;
        Ok(Self::with(redis, store))
    }

    /// The connection to Redis, if there is one, for those who watch it.
    pub fn redis(&self) -> Option<&Redis> {
        self.redis.as_ref()
    }

    /// Whether the token is known here to be used. If not, it may still be.
    pub fn knows(&self, nonce: &Nonce) -> bool {
        self.known.contains_key(&nonce.digest())
    }

    /// Whether the token is used, without using it. Where nobody can tell, it is not.
    pub async fn is_spent(&self, nonce: &Nonce, now: DateTime<Utc>) -> bool {
        if !self.knows(nonce) && self.store.is_spent(nonce, now).await.unwrap_or(false) {
            self.known.insert(nonce.digest(), ());
        }
        self.knows(nonce)
    }

    /// Spends a token, which is remembered until it is dead, and, if it may live for long, until `until`. False if it was spent before.
    pub async fn spend(&self, nonce: Nonce, until: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, Error> {
        let used = nonce.digest();
        let (reply, answer) = oneshot::channel();
        let spending = Spending { nonce, used, until, now, since: Instant::now(), reply };
        if self.waiting.try_send(spending).is_err() {
            return Err(too_busy());
        }
        let spent =
            answer.await.unwrap_or_else(|_| Err(Code::InternalServerError.because("the token could not be checked")));
        if let Ok(first) = spent {
            // Now, or before.
            self.known.insert(used, ());
            if let (true, Some(untold)) = (first, &self.untold) {
                // When too many wait, the others find out from PostgreSQL.
                let _ = untold.try_send(used);
            }
        }
        spent
    }
}

/// Tells the other replicas of used tokens, many at a time.
async fn tell(redis: Redis, mut telling: mpsc::Receiver<Used>, me: String) {
    let mut used = Vec::with_capacity(TOLD_AT_ONCE);
    while telling.recv_many(&mut used, TOLD_AT_ONCE).await > 0 {
        redis.publish(USED, write(&me, &used)).await;
        used.clear();
        tokio::time::sleep(GAP).await;
    }
}

/// Learns from the other replicas which tokens are used.
async fn hear(mut listener: Listener, known: moka::sync::Cache<Used, ()>, me: String) {
    // What was missed is asked of PostgreSQL.
    while let Some((_, text)) = listener.next().await {
        read(&text, &me).for_each(|used| known.insert(used, ()));
    }
}

/// A message: who sends it, and the tokens that it knows to be used.
fn write(me: &str, used: &[Used]) -> String {
    let mut text = String::with_capacity(me.len() + used.len() * 33);
    text.push_str(me);
    for used in used {
        text.push(' ');
        text.push_str(&crate::hex::encode(used));
    }
    text
}

/// The tokens of a message, unless this replica has sent it. What cannot be read is left out.
fn read<'a>(text: &'a str, me: &str) -> impl Iterator<Item = Used> + 'a {
    let mut words = text.split(' ');
    let from_others = words.next() != Some(me);
    words.filter(move |_| from_others).filter_map(|word| Some(u128::from_str_radix(word, 16).ok()?.to_be_bytes()))
}

fn too_busy() -> Error {
    Code::Overloaded.because("checking tokens took too long; nothing was changed")
}

/// One call at a time, until nobody can send a token any more.
async fn answer_all(store: Store, mut waiting: mpsc::Receiver<Spending>) {
    let mut arrived = Vec::with_capacity(BATCH);
    while waiting.recv_many(&mut arrived, BATCH).await > 0 {
        // A token that is here twice is used by the first and refused to the second.
        let (mut firsts, mut seconds, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        for spending in arrived.drain(..) {
            if spending.since.elapsed() > LONGEST_WAIT {
                let _ = spending.reply.send(Err(too_busy()));
            } else if seen.insert(spending.used) {
                firsts.push(spending);
            } else {
                seconds.push(spending);
            }
        }
        // The earliest time, so that no record counts as ended before it has.
        let Some(now) = firsts.iter().map(|token| token.now).min() else { continue };
        let nonces: Vec<_> = firsts.iter().map(|token| (&token.nonce, token.until)).collect();
        let answers: Vec<Result<bool, Error>> = match store.spend_nonces(&nonces, now).await {
            Ok(spent) => spent.into_iter().chain(seconds.iter().map(|_| false)).map(Ok).collect(),
            Err(error) => firsts.iter().chain(&seconds).map(|_| Err(error.clone())).collect(),
        };
        for (token, answer) in firsts.into_iter().chain(seconds).zip(answers) {
            // The client may be gone; its token is spent all the same.
            let _ = token.reply.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(issuer: &str, jti: &str) -> Used {
        let issuer = issuer.parse().unwrap();
        Nonce {
            issuer,
            jti: jti.to_owned(),
            minted_at: DateTime::UNIX_EPOCH,
            dead_at: DateTime::UNIX_EPOCH,
            lasting: false,
        }
        .digest()
    }

    #[test]
    fn what_a_token_is_known_by_is_its_own() {
        let a = used("did:plc:alice", "1");
        assert_ne!(a, used("did:plc:alice", "2"));
        assert_ne!(a, used("did:plc:bob", "1"));
        assert_eq!(a, used("did:plc:alice", "1"));
    }

    #[test]
    fn a_message_names_nobody_and_is_understood_by_others_alone() {
        let tokens = [used("did:plc:alice", "1"), [0; 16], used("did:plc:bob", "2")];
        let text = write("me", &tokens);
        assert!(!text.contains("plc"), "{text}");
        assert_eq!(read(&text, "another").collect::<Vec<_>>(), tokens);
        assert_eq!(read(&text, "me").count(), 0);
        assert_eq!(read("another not-a-token 0g", "me").count(), 0);
        assert_eq!(read("", "me").count(), 0);
    }
}
