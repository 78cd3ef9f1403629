//! Tokens that were used. Every request spends one, so they are spent many at a time: what arrived while the last statement ran
//! goes into the next.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::error::{Code, Error};
use crate::ids::Did;

use super::query::query;
use super::{Abort, Reader, Store, deadline, failure};

query! {
    SPEND = "auth/spend_nonces" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY, TIMESTAMPTZ);
}

/// Most tokens that wait to be spent.
const MOST_WAITING: usize = 10_000;
/// Most tokens in one statement.
const BATCH: usize = 256;
/// Statements at a time: while PostgreSQL works on one, the next fills up.
const WORKERS: usize = 1;

/// One token on its way.
pub(super) struct Nonce {
    issuer: String,
    jti: String,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
    /// True if it was not used before.
    reply: oneshot::Sender<Result<bool, Error>>,
}

/// Where tokens wait to be spent.
pub(super) type Queue = mpsc::Sender<Nonce>;

/// The queue and the workers' ends of it.
pub(super) fn queue() -> (Queue, mpsc::Receiver<Nonce>) {
    mpsc::channel(MOST_WAITING)
}

/// Starts the workers, on the store's runtime.
pub(super) fn start(store: &Store, nonces: mpsc::Receiver<Nonce>) {
    let nonces = Arc::new(Mutex::new(nonces));
    for _ in 0..WORKERS {
        let (store, nonces) = (store.clone(), nonces.clone());
        store.runtime.clone().spawn(async move {
            let mut batch = Vec::with_capacity(BATCH);
            while nonces.lock().await.recv_many(&mut batch, BATCH).await > 0 {
                spend_all(&store, std::mem::take(&mut batch)).await;
            }
        });
    }
}

/// Spends one token; false if it was used before.
pub(super) async fn spend(
    store: &Store,
    issuer: &Did,
    jti: &str,
    expires_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let (reply, answer) = oneshot::channel();
    let nonce = Nonce { issuer: issuer.to_string(), jti: jti.to_owned(), expires_at, now, reply };
    if store.nonces.try_send(nonce).is_err() {
        return Err(failure::overloaded("checking tokens"));
    }
    answer.await.unwrap_or_else(|_| Err(Code::InternalServerError.because("the token could not be checked")))
}

/// Spends what arrived together and answers each.
async fn spend_all(store: &Store, batch: Vec<Nonce>) {
    // A token that is here twice is used by the first and refused to the second.
    let mut firsts = HashMap::new();
    for (place, nonce) in batch.iter().enumerate() {
        firsts.entry((nonce.issuer.as_str(), nonce.jti.as_str())).or_insert(place);
    }
    let places: HashSet<usize> = firsts.into_values().collect();
    let spent =
        spend_distinct(store, batch.iter().enumerate().filter(|(n, _)| places.contains(n)).map(|(_, n)| n)).await;
    for (place, nonce) in batch.into_iter().enumerate() {
        let answer = match &spent {
            Ok(spent) => Ok(places.contains(&place) && spent.contains(&(nonce.issuer, nonce.jti))),
            Err(error) => Err(error.clone()),
        };
        // The client may be gone; its token is spent all the same.
        let _ = nonce.reply.send(answer);
    }
}

/// One statement, its own transaction; the tokens that were not used before.
async fn spend_distinct<'a>(
    store: &Store,
    nonces: impl Iterator<Item = &'a Nonce>,
) -> Result<HashSet<(String, String)>, Error> {
    let (mut issuers, mut jtis, mut until, mut now) = (Vec::new(), Vec::new(), Vec::new(), None::<DateTime<Utc>>);
    for nonce in nonces {
        issuers.push(nonce.issuer.as_str());
        jtis.push(nonce.jti.as_str());
        until.push(nonce.expires_at);
        // The earliest, so that no record counts as expired before its time.
        now = Some(now.map_or(nonce.now, |now| now.min(nonce.now)));
    }
    let spend = async {
        let reader = Reader(store.session().await?);
        reader.rows_within(deadline::TOKENS, &SPEND, &[&issuers, &jtis, &until, &now]).await
    };
    let rows = spend.await.map_err(Abort::into_error)?;
    Ok(rows.iter().map(|row| (row.get("issuer_did"), row.get("jti"))).collect())
}
