//! Moments in the database's history, which say what a stream has received.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use crate::error::Error;

/// A moment in the database's history.
#[derive(Debug, Clone)]
pub struct Moment {
    /// PostgreSQL's snapshot (pg_snapshot, PostgreSQL manual 9.27.5): the transactions that had ended.
    pub snapshot: String,
    /// The snapshot, parsed.
    seen: Seen,
    /// Incarnation of the database, without which transaction ids mean nothing.
    pub incarnation: i32,
    /// Key that seals the cursors of this incarnation.
    pub key: Key,
    /// Time by the database's clock.
    pub at: DateTime<Utc>,
}

impl Moment {
    /// Parses a snapshot; `None` if the text is not one.
    pub fn new(snapshot: String, incarnation: i32, era: i32, key: Key, at: DateTime<Utc>) -> Option<Self> {
        // xmin:xmax:xip,…
        let mut parts = snapshot.split(':').skip(1);
        let ahead = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let mut running = running.collect::<Result<Vec<i64>, _>>().ok()?;
        running.sort_unstable();
        Some(Self { seen: Seen { era, ahead, running, newest: 0 }, snapshot, incarnation, key, at })
    }

    /// Records that something of this transaction was read.
    pub fn has_read(&mut self, tx: i64) {
        self.seen.newest = self.seen.newest.max(tx);
    }

    /// Returns the transactions that had ended.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// Transactions that had ended at a snapshot: all of older eras, and of its own era all but those that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Incarnation in which the numbering of transactions began.
    pub era: i32,
    /// First id that had not been assigned.
    pub ahead: i64,
    /// Running transactions below it, in ascending order.
    pub running: Vec<i64>,
    /// Newest transaction of which something was read; 0 if nothing was.
    pub newest: i64,
}

impl Seen {
    /// Returns whether a transaction of this era, which is committed now, was committed at the snapshot.
    pub fn saw(&self, tx: i64) -> bool {
        tx < self.ahead && !self.running.contains(&tx)
    }

    /// Returns the age of the oldest running transaction, in transactions.
    pub fn oldest_age(&self) -> i64 {
        self.running.first().map_or(0, |oldest| self.ahead - oldest)
    }

    /// Returns these transactions with at most `most` running ones: the oldest of them, and nothing from the next one
    /// on.
    pub fn within(&self, most: usize) -> Self {
        let ahead = self.running.get(most).copied().unwrap_or(self.ahead);
        Self { ahead, running: self.running.iter().copied().take(most).collect(), ..*self }
    }

    /// Returns these transactions without those from `tx` on.
    pub fn below(mut self, tx: i64) -> Self {
        self.ahead = self.ahead.min(tx);
        self.running.retain(|running| *running < tx);
        self
    }

    /// Returns whether anything below this transaction may be missing, apart from what is still running.
    pub fn lacks_below(&self, tx: i64, now: &Seen) -> bool {
        self.ahead < tx || self.running.iter().any(|running| *running < tx && !now.running.contains(running))
    }

    /// Returns the running transactions as a PostgreSQL array.
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

/// Present state of the database for a stream that starts from a cursor.
pub struct Present {
    /// The present moment, with the newest entry that a new stream may have read from the log.
    pub moment: Moment,
    /// Horizon: rows of transactions of this era below it may be deleted.
    pub horizon: i64,
    /// Incarnation of the cursor, if it exists.
    pub then: Option<CursorIncarnation>,
}

/// An incarnation that a cursor names.
pub struct CursorIncarnation {
    pub key: Key,
    pub era: i32,
    /// Lowest id of the following incarnations, if there are any.
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
