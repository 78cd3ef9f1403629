//! Support for background work: units that report why they failed, items that are set aside, PostgreSQL's clock, and
//! the age of each kind of work. [`crate::background::portion`] describes the rules.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Store, Transaction, Tx};
use crate::clock::Clock;
use crate::error::{Code, Error};

query! {
    SET_ASIDE = "background/set_aside" (TEXT, TEXT, TEXT, INT8);
    ASIDE = "background/aside" (TEXT);
    TAKE_BACK = "background/take_back" (TEXT, TEXT_ARRAY);
    AGES = "background/ages" ();
    CLOCK = "schema/clock" ();
}

/// Maximum time of a statement of a unit. A unit is sized for some milliseconds, so a statement that takes this long
/// was too large. Two such statements still end before the deadline of the transaction.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of items that are set aside per kind of work. If a thousand items fail, the items are not the cause.
const MAX_SET_ASIDE: i64 = 1_000;
/// Maximum difference between the clocks of a replica and of PostgreSQL. It is far below the safety margins that depend
/// on it.
pub const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::minutes(1);

/// Reason why a unit failed.
#[derive(Debug)]
pub(crate) enum Failed {
    /// Its own statements failed, so a smaller unit may succeed.
    Itself(Error),
    /// The database was unavailable or had no free connection. The size of the unit does not matter.
    Around(Error),
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Itself(error) | Failed::Around(error) => error,
        }
    }
}

/// A transaction that records whether its own statements were reached.
struct Unit<T> {
    transaction: T,
    reached: Arc<AtomicBool>,
}

impl<T: Transaction> Transaction for Unit<T> {
    const NAME: &'static str = T::NAME;
    const LANE: Lane = T::LANE;
    type Output = T::Output;

    async fn execute(&self, tx: &Tx) -> Result<T::Output, Abort> {
        self.reached.store(true, Ordering::Relaxed);
        self.transaction.execute(tx).await
    }
}

struct SetAside {
    work: &'static str,
    item: String,
    why: String,
}

impl Transaction for SetAside {
    const NAME: &'static str = "setAside";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&SET_ASIDE, &[&self.work, &self.item, &self.why, &MAX_SET_ASIDE]).await?;
        Ok(())
    }
}

struct TakeBack {
    work: &'static str,
    items: Vec<String>,
}

impl Transaction for TakeBack {
    const NAME: &'static str = "takeBack";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&TAKE_BACK, &[&self.work, &self.items]).await?;
        Ok(())
    }
}

/// State of one kind of work over all replicas.
#[derive(Debug, Clone)]
pub(crate) struct WorkState {
    pub work: String,
    /// Time since a pass was last finished.
    pub age: Duration,
    /// Number of items that are set aside.
    pub aside: i64,
}

impl Store {
    /// Runs a unit of background work.
    pub(crate) async fn unit<T: Transaction>(&self, transaction: T) -> Result<T::Output, Failed> {
        let reached = Arc::new(AtomicBool::new(false));
        let done = self.transact(Unit { transaction, reached: reached.clone() }).await;
        done.map_err(|error| match reached.load(Ordering::Relaxed) && error.code != Code::DatabaseUnavailable {
            true => Failed::Itself(error),
            false => Failed::Around(error),
        })
    }

    /// Sets an item of this work aside until it is due again.
    pub(crate) async fn set_aside(&self, work: &'static str, item: String, why: &Error) -> Result<(), Error> {
        // The message of an internal error is for clients.
        let reason = why.details.cause.as_ref().unwrap_or(&why.message);
        self.transact(SetAside { work, item, why: format!("{}: {reason}", why.code.name()) }).await
    }

    /// Removes these items from those that are set aside.
    pub(crate) async fn take_back(&self, work: &'static str, items: Vec<String>) -> Result<(), Error> {
        self.transact(TakeBack { work, items }).await
    }

    /// Returns the items of this work that are set aside, and for each whether it is due again.
    pub(crate) async fn aside(&self, work: &'static str) -> Result<HashMap<String, bool>, Error> {
        let rows = self.reader_for(Lane::Background).await?.rows(&ASIDE, &[&work]).await?;
        Ok(rows.iter().map(|row| (row.get("item"), row.get("due"))).collect())
    }

    /// Returns whether this clock and PostgreSQL's agree well enough for either to decide what is old.
    pub async fn agrees_with(&self, clock: &Clock) -> Result<bool, Error> {
        let reader = self.reader_for(Lane::Vital).await?;
        let before = clock.now();
        let there = reader.now().await?;
        Ok(there > before - MAX_CLOCK_SKEW && there < clock.now() + MAX_CLOCK_SKEW)
    }

    /// Returns the state of each kind of work.
    pub(crate) async fn work_states(&self) -> Result<Vec<WorkState>, Error> {
        let rows = self.reader_for(Lane::Background).await?.rows(&AGES, &[]).await?;
        let state = |row: &tokio_postgres::Row| WorkState {
            work: row.get("job"),
            age: Duration::from_secs_f64(row.get::<_, f64>("age").max(0.0)),
            aside: row.get("aside"),
        };
        Ok(rows.iter().map(state).collect())
    }
}

impl Reader {
    /// Returns the time of PostgreSQL's clock.
    async fn now(&self) -> Result<DateTime<Utc>, Error> {
        let row = self.find(&CLOCK, &[]).await?;
        row.map(|row| row.get("now")).ok_or_else(|| Error::internal("an expression has no value"))
    }
}
