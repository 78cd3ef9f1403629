//! A transaction of several statements: BEGIN and the lock in one flush, the work, COMMIT or ROLLBACK.
//!
//! A connection goes back to the pool only when PostgreSQL has answered COMMIT or ROLLBACK; any other one is closed.

use std::future::Future;
use std::time::Instant;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::timing::{Stage, measure};

use super::failure::{self, Abort, Cause};
use super::query::query;
use super::session::Params;
use super::tx::Identity;
use super::{Store, Tx, deadline, incarnation};

query! {
    LOCK = "tx/lock" (TEXT);
    NAME = "tx/name" (TEXT);
}

/// First statement of a transaction, beside its name.
pub(super) enum Opening<'w> {
    /// Nothing.
    Free,
    /// The right to write a conversation, for its actor, who takes no lock.
    Claim(&'w ConvoId),
    /// The lock of a conversation, for which it waits.
    Lock(&'w ConvoId),
}

impl Store {
    /// Opens a transaction and runs work in it, until `deadline`. The caller ends it with the result ([`Store::end`]), or drops it after an
    /// error, and its connection with it: a statement is still running there.
    pub(super) async fn in_transaction<T>(
        &self,
        tx: &Tx,
        opening: Opening<'_>,
        deadline: Instant,
        work: impl Future<Output = Result<T, Abort>>,
    ) -> Result<Result<T, Abort>, Abort> {
        let begun = Instant::now();
        let opened = async {
            measure(Stage::Lock, self.open(tx, opening)).await?;
            work.await
        };
        tokio::time::timeout_at(deadline.into(), opened).await.map_err(|_| {
            // Otherwise the request had no time left.
            if begun.elapsed() >= deadline::LOCK {
                tx.session.evict_idle();
            }
            failure::overloaded("the transaction").into()
        })
    }

    /// Commits a transaction if its work succeeded, and rolls it back otherwise.
    pub(super) async fn end<T>(&self, name: &'static str, tx: Tx, result: Result<T, Abort>) -> Result<T, Abort> {
        if tx.identity.get().is_none() {
            // It was never opened. Its connection is dirty and is closed with it.
            return result;
        }
        match result {
            Ok(done) if !tx.failed() => {
                measure(Stage::Commit, self.commit(tx)).await?;
                Ok(done)
            }
            Ok(_) => {
                self.roll_back(tx).await;
                Err(Error::internal(format!("{name} went on after a statement had failed")).into())
            }
            Err(abort) => {
                self.roll_back(tx).await;
                Err(abort)
            }
        }
    }

    /// Sends BEGIN and the lock in one flush. The lock is a statement of its own, before any read: PostgreSQL takes a statement's snapshot
    /// before a function inside it blocks.
    async fn open(&self, tx: &Tx, opening: Opening<'_>) -> Result<(), Abort> {
        let waiting = Instant::now();
        let begin = self.begin();
        // In this order: what is polled first is sent first.
        let flush = async |query, params: Params<'_>| tokio::join!(biased; tx.session.simple(begin), tx.session.rows(query, params));
        let flushed = async {
            let (begun, named) = match &opening {
                Opening::Free => flush(&NAME, &[&None::<&str>]).await,
                Opening::Claim(convo) => flush(&NAME, &[&Some(convo.as_str())]).await,
                Opening::Lock(convo) => flush(&LOCK, &[&convo.as_str()]).await,
            };
            begun?;
            named
        };
        let flushed = tokio::time::timeout(deadline::LOCK + deadline::CONNECT, flushed).await;
        // Also if the wait has run out: a lock that is held for long would not be seen otherwise.
        if matches!(opening, Opening::Lock(_)) {
            self.metrics.lock_waited(waiting.elapsed());
        }
        match flushed {
            Ok(Ok(rows)) => {
                let row = rows.first().expect("a select of functions returns one row");
                let Some(incarnation) = row.get("incarnation") else {
                    tx.session.simple("rollback").await?;
                    incarnation::renew(&tx.session).await?;
                    return Err(Abort::Again(Cause::Connection));
                };
                let _ = tx.identity.set(Identity { xid: row.get("xid"), incarnation });
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                tx.session.evict_idle();
                Err(failure::overloaded("waiting for the conversation's lock").into())
            }
        }
    }

    /// Sends ROLLBACK and waits for it, so that the connection goes back clean and the lock is free before the client is answered.
    async fn roll_back(&self, tx: Tx) {
        if let Ok(Ok(_)) = tokio::time::timeout(deadline::COMMIT, tx.session.simple("rollback")).await {
            tx.session.mark_clean();
        }
    }

    async fn commit(&self, tx: Tx) -> Result<(), Abort> {
        match tokio::time::timeout(deadline::COMMIT, tx.session.simple("commit")).await {
            Ok(Ok(_)) => {
                tx.session.mark_clean();
                Ok(())
            }
            // PostgreSQL refused, and says so: nothing was written.
            Ok(Err(error)) if error.as_db_error().is_some_and(|db| !failure::ends_connection(db.code())) => {
                Err(error.into())
            }
            // No reply, or one that says only that the server is going away: it may have happened.
            _ => {
                let Tx { session, identity, .. } = tx;
                session.discard();
                self.find_out(&identity.into_inner().expect("it was opened before it was committed")).await
            }
        }
    }
}
