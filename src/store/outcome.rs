//! The outcome of a transaction whose COMMIT was sent and not answered (`pg_xact_status`, PostgreSQL manual 9.27.5).

use std::time::Instant;

use tokio_postgres::error::SqlState;

use crate::error::Error;

use super::failure::{self, Abort, Cause};
use super::lanes::Lane;
use super::metrics::LostCommit;
use super::query::query;
use super::session::{Params, Queries};
use super::tx::Identity;
use super::unit_of_work::{MAX_RETRY_DELAY, MIN_RETRY_DELAY};
use super::{Store, deadline};

query! {
    OUTCOME = "tx/outcome" (TEXT, INT4);
    HANGING = "tx/hanging" (FLOAT8);
}

/// State of a transaction.
enum Outcome {
    Committed,
    Aborted,
    InProgress,
    /// PostgreSQL cannot tell.
    Forgotten,
}

impl Store {
    /// Asks PostgreSQL until it knows. Errors: [`Cause::RolledBack`] if nothing was written, or that the outcome is unknown.
    pub(super) async fn find_out(&self, tx: &Identity) -> Result<(), Abort> {
        let deadline = Instant::now() + deadline::OUTCOME;
        let mut delay = MIN_RETRY_DELAY;
        while Instant::now() < deadline {
            match self.outcome(tx).await {
                Some(Outcome::Committed) => {
                    self.metrics.commit_recovered(LostCommit::Committed);
                    return Ok(());
                }
                Some(Outcome::Aborted) => {
                    self.metrics.commit_recovered(LostCommit::RolledBack);
                    return Err(Abort::Again(Cause::RolledBack));
                }
                Some(Outcome::Forgotten) => break,
                Some(Outcome::InProgress) | None => {}
            }
            tokio::time::sleep(delay).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
        Err(self.unconfirmed())
    }

    /// Returns whether PostgreSQL has COMMITs that no replica waits for any more.
    pub(super) async fn commits_hang(&self) -> Result<bool, Error> {
        let reader = self.reader_for(Lane::Vital).await?;
        let row = reader.find(&HANGING, &[&deadline::COMMIT.as_secs_f64()]).await.map_err(Error::from)?;
        Ok(row.is_some_and(|row| row.get("hanging")))
    }

    pub(super) fn unconfirmed(&self) -> Abort {
        self.metrics.commit_recovered(LostCommit::Unknown);
        failure::unconfirmed().into()
    }

    async fn outcome(&self, tx: &Identity) -> Option<Outcome> {
        let session = self.session(Lane::Vital).await.ok()?;
        session.mark_dirty();
        let (query, params): (_, Params<'_>) = (&OUTCOME, &[&tx.xid, &tx.incarnation]);
        match tokio::time::timeout(deadline::CONNECT, session.rows(query, params)).await {
            Ok(Ok(rows)) => {
                session.mark_clean();
                let row = rows.first()?;
                Some(match row.get::<_, Option<&str>>("status") {
                    Some("committed") if row.get("same_id") => Outcome::Committed,
                    // It may be another transaction with the same id. If this one was committed, the same request finds that.
                    Some("committed") => Outcome::Forgotten,
                    // If this one had been committed, its id would not have been given out again.
                    Some("aborted") => Outcome::Aborted,
                    Some(_) => Outcome::InProgress,
                    None => Outcome::Forgotten,
                })
            }
            // An id from the future: another server answers now, which never saw this transaction.
            Ok(Err(error)) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Some(Outcome::Forgotten),
            _ => None,
        }
    }
}
