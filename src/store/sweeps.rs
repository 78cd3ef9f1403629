//! Deleting what is old: small transactions, each of which one replica at a time may make.
//!
//! Most tables are read from their first page to their last, a few pages at a time, which needs no index and so costs no request
//! anything. Logs are shortened from their beginning, conversation by conversation, through their primary key. [`crate::jobs`]
//! says what is old and when to look.

use chrono::{DateTime, Utc};

use super::query::{Query, query};
use super::session::Queries;
use super::{Abort, Errand, Reader, Store, Tx};
use crate::error::Error;

query! {
    BEGIN = "sweeps/begin" (TEXT, FLOAT8, TIMESTAMPTZ);
    LOCK = "sweeps/lock" (TEXT);
    NOTE = "sweeps/note" (TEXT, INT8);
    FINISH = "sweeps/finish" (TEXT);
    PAGES = "sweeps/pages" (TEXT);
    NONCES = "sweeps/nonces" (TEXT, TEXT, TIMESTAMPTZ);
    RECORDS = "sweeps/records" (TEXT, TEXT, TIMESTAMPTZ);
    EVENTS = "sweeps/events" (TEXT, TEXT, TIMESTAMPTZ);
    KEY_PACKAGES = "sweeps/key_packages" (TEXT, TEXT, TIMESTAMPTZ);
    WELCOMES = "sweeps/welcomes" (TEXT, TEXT, TIMESTAMPTZ);
    ENVELOPES = "sweeps/envelopes" (TEXT, TEXT, TIMESTAMPTZ);
    LOGS_DUE = "sweeps/logs_due" (TEXT, TIMESTAMPTZ, INT8);
    LOG = "sweeps/log" (TEXT, TIMESTAMPTZ, INT8);
    LOG_COMMITS = "sweeps/log_commits" (TEXT, INT8);
}

/// Pages of a table in one transaction: half a megabyte, some thousand small rows at most.
const PAGES_AT_ONCE: i64 = 64;
/// Entries of a log in one transaction. Each may have 10 MiB, but most have a kilobyte.
const ENTRIES_AT_ONCE: i64 = 500;
/// Conversations that are looked at in one statement.
const CONVOS_AT_ONCE: i64 = 200;

/// A table that is swept page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Nonces,
    Records,
    Events,
    KeyPackages,
    Welcomes,
    Envelopes,
}

impl Table {
    fn name(self) -> &'static str {
        match self {
            Table::Nonces => "auth_nonces",
            Table::Records => "idempotency_records",
            Table::Events => "event_stream",
            Table::KeyPackages => "key_packages",
            Table::Welcomes => "welcome_messages",
            Table::Envelopes => "envelopes",
        }
    }

    fn query(self) -> &'static Query {
        match self {
            Table::Nonces => &NONCES,
            Table::Records => &RECORDS,
            Table::Events => &EVENTS,
            Table::KeyPackages => &KEY_PACKAGES,
            Table::Welcomes => &WELCOMES,
            Table::Envelopes => &ENVELOPES,
        }
    }
}

/// What one transaction of a sweep deletes.
#[derive(Debug, Clone)]
pub enum Bite {
    /// The old rows among some pages of a table, from this one on.
    Pages { table: Table, from: i64 },
    /// Old entries at the beginning of this conversation's log.
    Log { convo: String },
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Bitten {
    /// Rows that were deleted.
    pub deleted: i64,
    /// There is more of the same, for a log.
    pub more: bool,
}

struct Sweep {
    job: &'static str,
    cutoff: DateTime<Utc>,
    bite: Bite,
}

impl Errand for Sweep {
    const NAME: &'static str = "sweep";
    /// `None`: another replica is at it.
    type Output = Option<Bitten>;

    async fn execute(&self, tx: &Tx) -> Result<Option<Bitten>, Abort> {
        if tx.find(&LOCK, &[&self.job]).await?.is_none() {
            return Ok(None);
        }
        let bitten = match &self.bite {
            Bite::Pages { table, from } => {
                let (first, end) = (format!("({from},0)"), format!("({},0)", from + PAGES_AT_ONCE));
                let deleted = deleted(tx.find(table.query(), &[&first, &end, &self.cutoff]).await?);
                Bitten { deleted, more: false }
            }
            Bite::Log { convo } => {
                let log = tx.find(&LOG, &[convo, &self.cutoff, &ENTRIES_AT_ONCE]).await?;
                let moved = log.as_ref().is_some_and(|row| row.get("moved"));
                let messages = deleted(log);
                let commits = deleted(tx.find(&LOG_COMMITS, &[convo, &ENTRIES_AT_ONCE]).await?);
                Bitten { deleted: messages + commits, more: moved || commits == ENTRIES_AT_ONCE }
            }
        };
        if bitten.deleted > 0 {
            tx.rows(&NOTE, &[&self.job, &bitten.deleted]).await?;
        }
        Ok(Some(bitten))
    }
}

fn deleted(row: Option<tokio_postgres::Row>) -> i64 {
    row.map_or(0, |row| row.get("deleted"))
}

struct Begin {
    job: &'static str,
    every_seconds: f64,
    cutoff: DateTime<Utc>,
}

impl Errand for Begin {
    const NAME: &'static str = "beginSweep";
    type Output = bool;

    async fn execute(&self, tx: &Tx) -> Result<bool, Abort> {
        Ok(tx.find(&BEGIN, &[&self.job, &self.every_seconds, &self.cutoff]).await?.is_some())
    }
}

struct Finish(&'static str);

impl Errand for Finish {
    const NAME: &'static str = "finishSweep";
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&FINISH, &[&self.0]).await?;
        Ok(())
    }
}

impl Store {
    /// Begins a pass of a job, and says whether it is this replica's turn: the last pass, wherever it was, began at least `every`
    /// ago. From now on what is older than `cutoff` may be gone.
    pub(crate) async fn begin_sweep(
        &self,
        job: &'static str,
        every: std::time::Duration,
        cutoff: DateTime<Utc>,
    ) -> Result<bool, Error> {
        self.errand(Begin { job, every_seconds: every.as_secs_f64(), cutoff }).await
    }

    /// One transaction of a pass. `None`: another replica is at it.
    pub(crate) async fn bite(
        &self,
        job: &'static str,
        cutoff: DateTime<Utc>,
        bite: Bite,
    ) -> Result<Option<Bitten>, Error> {
        self.errand(Sweep { job, cutoff, bite }).await
    }

    /// Ends a pass.
    pub(crate) async fn finish_sweep(&self, job: &'static str) -> Result<(), Error> {
        self.errand(Finish(job)).await
    }
}

impl Reader {
    /// The bites that a table takes as it is now.
    pub(crate) async fn bites(&self, table: Table) -> Result<impl Iterator<Item = Bite> + use<>, Error> {
        let row = self.find(&PAGES, &[&table.name()]).await.map_err(Abort::into_error)?;
        let pages: i64 = row.map_or(0, |row| row.get("pages"));
        Ok((0..pages).step_by(PAGES_AT_ONCE as usize).map(move |from| Bite::Pages { table, from }))
    }

    /// The conversations after this id whose logs have something to delete, and the id to go on after; `None` at the end.
    pub(crate) async fn logs_due(
        &self,
        after: &str,
        cutoff: DateTime<Utc>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        let rows = self.rows(&LOGS_DUE, &[&after, &cutoff, &CONVOS_AT_ONCE]).await.map_err(Abort::into_error)?;
        let last = rows.last().map(|row| row.get("id"));
        Ok((rows.iter().filter(|row| row.get("due")).map(|row| row.get("id")).collect(), last))
    }
}
