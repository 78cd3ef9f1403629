//! Moments in the database's history, by which streams know what they have had.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::error::Error;

/// A moment in the database's history.
#[derive(Debug, Clone)]
pub struct Moment {
    /// PostgreSQL's name of it (pg_snapshot, PostgreSQL manual 9.27.5): which transactions had ended.
    pub snapshot: String,
    /// The same to be looked at.
    seen: Seen,
    /// The incarnation of the database, without which the numbers of transactions mean nothing.
    pub incarnation: i32,
    /// Seals the incarnation's cursors.
    pub key: Key,
    /// When it was, by the database's clock.
    pub at: DateTime<Utc>,
}

impl Moment {
    /// From PostgreSQL's name of a snapshot; `None` if it is none.
    pub fn new(snapshot: String, incarnation: i32, era: i32, key: Key, at: DateTime<Utc>) -> Option<Self> {
        // xmin:xmax:xip,…
        let mut parts = snapshot.split(':').skip(1);
        let ahead = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let mut running = running.collect::<Result<Vec<i64>, _>>().ok()?;
        running.sort_unstable();
        Some(Self { seen: Seen { era, ahead, running, newest: 0 }, snapshot, incarnation, key, at })
    }

    /// Notes that something of this transaction was read.
    pub fn has_read(&mut self, tx: i64) {
        self.seen.newest = self.seen.newest.max(tx);
    }

    /// Which transactions had ended.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// Which transactions a snapshot saw the end of: all of older eras, and of its own all but these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The incarnation that the numbering of transactions began with.
    pub era: i32,
    /// None at or above had begun.
    pub ahead: i64,
    /// These below ran, in order.
    pub running: Vec<i64>,
    /// The newest of which something was read; 0 if nothing was.
    pub newest: i64,
}

impl Seen {
    /// Whether a transaction of its era that has been committed by now had been committed then.
    pub fn saw(&self, tx: i64) -> bool {
        tx < self.ahead && !self.running.contains(&tx)
    }

    /// How many transactions ago the oldest of those that run began.
    pub fn oldest_age(&self) -> i64 {
        self.running.first().map_or(0, |oldest| self.ahead - oldest)
    }

    /// The same, or less, with so many running transactions at most: those that have run longest, and none from the next one on.
    pub fn within(&self, most: usize) -> Self {
        let ahead = self.running.get(most).copied().unwrap_or(self.ahead);
        Self { ahead, running: self.running.iter().copied().take(most).collect(), ..*self }
    }

    /// The same without transactions from this one on.
    pub fn below(mut self, tx: i64) -> Self {
        self.ahead = self.ahead.min(tx);
        self.running.retain(|running| *running < tx);
        self
    }

    /// Whether something below this transaction may be missing, of what is not running still.
    pub fn lacks_below(&self, tx: i64, now: &Seen) -> bool {
        self.ahead < tx || self.running.iter().any(|running| *running < tx && !now.running.contains(running))
    }

    /// The running ones as PostgreSQL writes an array.
    pub(super) fn array(&self) -> String {
        let running: Vec<String> = self.running.iter().map(i64::to_string).collect();
        format!("{{{}}}", running.join(","))
    }
}

/// Key of cursors, never shown.
#[derive(Clone)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// The present, as whoever comes with a cursor has to know it.
pub struct Present {
    /// With the newest entry, which whoever begins here may have read from the log.
    pub moment: Moment,
    /// What transactions of this era below wrote may be gone.
    pub horizon: i64,
    /// The incarnation of the cursor, if there is such a one.
    pub then: Option<CursorIncarnation>,
}

/// An incarnation that a cursor names.
pub struct CursorIncarnation {
    pub key: Key,
    pub era: i32,
    /// Nothing was written below in the incarnations that followed, if there are any.
    pub floor: Option<i64>,
}

pub(super) fn moment(row: &Row) -> Result<Moment, Error> {
    let (incarnation, era) = (row.get("incarnation"), row.get("era"));
    Moment::new(row.get("snapshot"), incarnation, era, key(row.get("cursor_key"))?, row.get("now"))
        .ok_or_else(|| Error::internal("PostgreSQL writes snapshots in another way"))
}

pub(in crate::store) fn key(bytes: &[u8]) -> Result<Key, Error> {
    bytes.try_into().map(Key).map_err(Error::internal)
}
