//! Deletion of old rows, in small transactions that one replica at a time runs.
//!
//! Most tables are read from the first page to the last, a few pages at a time. This needs no index, so it costs
//! requests nothing. Logs are shortened from their beginning, one conversation after another, through their primary
//! key. [`crate::jobs`] decides what is old and when to sweep.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::blobs::GIVEN_UP_SECONDS;
use super::device_announcements::{self, Announced};
use super::lanes::Lane;
use super::query::{Query, query};
use super::session::{Params, Queries};
use super::{Abort, Reader, Store, Transaction, Tx, background, ending, welcomes};
use crate::error::Error;

query! {
    BEGIN = "sweeps/begin" (TEXT, FLOAT8, FLOAT8, FLOAT8);
    LOCK = "sweeps/lock" (TEXT, TEXT);
    NOTE = "sweeps/note" (TEXT, INT8, TEXT);
    FINISH = "sweeps/finish" (TEXT);
    PAGES = "sweeps/pages" (TEXT);
    NONCES = "sweeps/nonces" (TEXT, TEXT, TIMESTAMPTZ);
    RECORDS = "sweeps/records" (TEXT, TEXT, TIMESTAMPTZ);
    EVENTS = "sweeps/events" (TEXT, TEXT, TIMESTAMPTZ);
    KEY_PACKAGES = "sweeps/key_packages" (TEXT, TEXT, TIMESTAMPTZ);
    WELCOMES = "sweeps/welcomes" (TEXT, TEXT, TIMESTAMPTZ);
    ENVELOPES = "sweeps/envelopes" (TEXT, TEXT, TIMESTAMPTZ);
    ALLOWANCES = "sweeps/allowances" (TEXT, TEXT, TIMESTAMPTZ);
    DID_DOCUMENTS = "sweeps/did_documents" (TEXT, TEXT, TIMESTAMPTZ);
    COMMIT_REPORTS = "sweeps/commit_reports" (TEXT, TEXT, TIMESTAMPTZ);
    LOGS_DUE = "sweeps/logs_due" (TEXT, TIMESTAMPTZ, INT8, TIMESTAMPTZ);
    CONVOS_DUE = "sweeps/convos_due" (TEXT, TIMESTAMPTZ, INT8, TIMESTAMPTZ);
    USED_TOKENS = "sweeps/used_tokens" (INT4);
    UNOPENED = "sweeps/unopened" (TEXT, TEXT, TIMESTAMPTZ, INT8);
    WITHDRAW = "sweeps/withdraw" (TEXT_ARRAY);
    LOGS = "sweeps/logs" (TEXT_ARRAY, TIMESTAMPTZ, INT8, INT8);
    LOG_COMMITS = "sweeps/log_commits" (TEXT_ARRAY, INT8, INT8, TIMESTAMPTZ);
    NEXT_CONVO = "sweeps/next_convo" (TEXT);
    UNUSED_BLOBS = "sweeps/unused_blobs" (INT8);
    GIVEN_UP_OBJECTS = "sweeps/given_up_objects" (TEXT, INT8);
    FORGET_OBJECTS = "sweeps/forget_objects" (TEXT_ARRAY, FLOAT8);
}

/// Bytes of ciphertext after which a transaction takes no further entry, so that it deletes less than twice as much.
pub(super) const MAX_LOG_BYTES: i64 = 16 * 1024 * 1024;
/// Number of slots for used tokens (V022).
pub(crate) const USED_TOKEN_SLOTS: i32 = 16;
/// Time without a sign of life after which another replica continues a pass.
const MAX_SILENCE: Duration = Duration::from_secs(60);

/// A table that is swept by pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    Nonces,
    Records,
    Events,
    KeyPackages,
    Welcomes,
    Envelopes,
    DidDocuments,
    Allowances,
    UnopenedWelcomes,
    CommitReports,
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
            Table::DidDocuments => "did_documents",
            Table::Allowances => "allowances",
            Table::UnopenedWelcomes => "welcomes",
            Table::CommitReports => "commit_reports",
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
            Table::DidDocuments => &DID_DOCUMENTS,
            Table::Allowances => &ALLOWANCES,
            Table::UnopenedWelcomes => &UNOPENED,
            Table::CommitReports => &COMMIT_REPORTS,
        }
    }
}

/// Work of one transaction of a sweep.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// Old rows in a range of pages of a table.
    Pages { table: Table, from: i64, pages: i64 },
    /// Old entries at the beginnings of these conversations' logs, at most so many of each. Commits made before
    /// `unread_before` are included even if a member has not read them.
    Logs { convos: Vec<String>, entries: i64, unread_before: Option<DateTime<Utc>> },
    /// One slot of used tokens.
    UsedTokens { slot: i32 },
    /// The next conversations whose members are told of a device, one for each id of an addition.
    Device { device: Announced, ids: Vec<String> },
    /// At most so many expired blobs that no message refers to.
    UnusedBlobs { blobs: i64 },
    /// Objects whose bytes were deleted from the blob store.
    GivenUpObjects { names: Vec<String> },
    /// At most so many members or rows of an abandoned conversation; rows only if it ended before this time.
    Convo { convo: String, rows: i64, ended_before: DateTime<Utc> },
}

/// Result of one transaction of a sweep.
#[derive(Debug, Clone)]
pub struct ChunkResult {
    /// Number of deleted rows.
    pub deleted: i64,
    /// Items that may have more work: conversations, the first page of the range, the device, or the job itself.
    pub more: HashSet<String>,
}

/// One transaction of a pass of a job.
pub(crate) struct Sweep {
    pub job: &'static str,
    pub cutoff: DateTime<Utc>,
    pub chunk: Chunk,
    /// Place from which the pass continues after this transaction, on any replica.
    pub place: String,
    /// Records the place even if nothing was deleted.
    pub note: bool,
}

impl Transaction for Sweep {
    const NAME: &'static str = "sweep";
    const LANE: Lane = Lane::Background;
    /// `None`: another replica is running this job.
    type Output = Option<ChunkResult>;

    async fn execute(&self, tx: &Tx) -> Result<Option<ChunkResult>, Abort> {
        let limit = background::STATEMENT_TIMEOUT.as_millis().to_string();
        if tx.find(&LOCK, &[&self.job, &limit]).await?.is_none() {
            return Ok(None);
        }
        let result = match &self.chunk {
            Chunk::Pages { table: Table::UnopenedWelcomes, from, pages } => {
                unopened(tx, *from, *pages, self.cutoff).await?
            }
            Chunk::Pages { table, from, pages } => {
                let (first, end) = (format!("({from},0)"), format!("({},0)", from + pages));
                let row = tx.find(table.query(), &[&first, &end, &self.cutoff]).await?;
                ChunkResult { deleted: row.map_or(0, |row| row.get("deleted")), more: HashSet::new() }
            }
            Chunk::UsedTokens { slot } => {
                let row = tx.find(&USED_TOKENS, &[slot]).await?;
                ChunkResult { deleted: row.map_or(0, |row| row.get("deleted")), more: HashSet::new() }
            }
            Chunk::UnusedBlobs { blobs } => {
                let deleted = tx.find(&UNUSED_BLOBS, &[blobs]).await?.map_or(0, |row| row.get("deleted"));
                let more = (deleted == *blobs).then(|| self.job.to_owned());
                ChunkResult { deleted, more: HashSet::from_iter(more) }
            }
            Chunk::GivenUpObjects { names } => {
                let row = tx.find(&FORGET_OBJECTS, &[names, &GIVEN_UP_SECONDS]).await?;
                ChunkResult { deleted: row.map_or(0, |row| row.get("deleted")), more: HashSet::new() }
            }
            Chunk::Device { device, ids } => {
                let told = device_announcements::portion(tx, device, ids).await?;
                let more = told.more.then(|| device.device_id.clone());
                ChunkResult { deleted: 0, more: HashSet::from_iter(more) }
            }
            Chunk::Convo { convo, rows, ended_before } => {
                ending::portion(tx, convo, *rows, self.cutoff, *ended_before).await?
            }
            Chunk::Logs { convos, entries, unread_before } => {
                let messages = tx.find(&LOGS, &[convos, &self.cutoff, entries, &MAX_LOG_BYTES]).await?;
                let commits = tx.find(&LOG_COMMITS, &[convos, entries, &MAX_LOG_BYTES, unread_before]).await?;
                let both = || messages.iter().chain(&commits);
                ChunkResult {
                    deleted: both().map(|row| row.get::<_, i64>("deleted")).sum(),
                    more: both().flat_map(|row| row.get::<_, Vec<String>>("more")).collect(),
                }
            }
        };
        if result.deleted > 0 || self.note {
            tx.rows(&NOTE, &[&self.job, &result.deleted, &self.place]).await?;
        }
        Ok(Some(result))
    }
}

/// Deletes unopened Welcomes in this range of pages.
async fn unopened(tx: &Tx, from: i64, pages: i64, cutoff: DateTime<Utc>) -> Result<ChunkResult, Abort> {
    let (first, end) = (format!("({from},0)"), format!("({},0)", from + pages));
    let lines = tx.rows(&UNOPENED, &[&first, &end, &cutoff, &MAX_LOG_BYTES]).await?;
    let more = lines.first().is_some_and(|line| line.get("more")).then(|| from.to_string());
    let welcomes: HashSet<String> = lines.iter().map(|line| line.get("welcome_id")).collect();
    let welcomes: Vec<String> = welcomes.into_iter().collect();
    // Separate statements, which see what the locks have waited for.
    let deleted = match tx.find(&WITHDRAW, &[&welcomes]).await? {
        Some(row) => row.get("deleted"),
        None => 0,
    };
    welcomes::forget(tx, welcomes).await?;
    Ok(ChunkResult { deleted, more: HashSet::from_iter(more) })
}

/// A pass that was started or taken over.
#[derive(Debug)]
pub(crate) struct Begun {
    /// Age limit: older rows may be deleted.
    pub cutoff: DateTime<Utc>,
    /// Place to continue from; `None` for the beginning.
    pub place: Option<String>,
}

struct Begin {
    job: &'static str,
    every: Duration,
    age: TimeDelta,
}

impl Transaction for Begin {
    const NAME: &'static str = "beginSweep";
    const LANE: Lane = Lane::Background;
    type Output = Option<Begun>;

    async fn execute(&self, tx: &Tx) -> Result<Option<Begun>, Abort> {
        let age = self.age.num_milliseconds() as f64 / 1_000.0;
        let (every, silence) = (self.every.as_secs_f64(), self.every.min(MAX_SILENCE).as_secs_f64());
        let row = tx.find(&BEGIN, &[&self.job, &every, &age, &silence]).await?;
        Ok(row.map(|row| Begun { cutoff: row.get("cutoff"), place: row.get("place") }))
    }
}

struct Finish(&'static str);

impl Transaction for Finish {
    const NAME: &'static str = "finishSweep";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&FINISH, &[&self.0]).await?;
        Ok(())
    }
}

impl Store {
    /// Starts a pass of a job for rows of this age, or continues the pass of a replica that has died. `None`: the last
    /// pass on any replica started less than `every` ago, or a pass is running.
    pub(crate) async fn begin_sweep(
        &self,
        job: &'static str,
        every: Duration,
        age: TimeDelta,
    ) -> Result<Option<Begun>, Error> {
        self.transact(Begin { job, every, age }).await
    }

    /// Finishes a pass.
    pub(crate) async fn finish_sweep(&self, job: &'static str) -> Result<(), Error> {
        self.transact(Finish(job)).await
    }
}

impl Reader {
    /// Returns the present number of pages of a table.
    pub(crate) async fn pages(&self, table: Table) -> Result<i64, Error> {
        let row = self.find(&PAGES, &[&table.name()]).await?;
        Ok(row.map_or(0, |row| row.get("pages")))
    }

    /// Checks at most `convos` conversations after an id. Returns those with log entries to delete, and the id to
    /// continue after; `None` at the end.
    pub(crate) async fn logs_due(
        &self,
        after: &str,
        cutoff: DateTime<Utc>,
        convos: i64,
        unread_before: Option<DateTime<Utc>>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        self.due(&LOGS_DUE, &[&after, &cutoff, &convos, &unread_before]).await
    }

    /// Checks at most `convos` conversations after an id. Returns those that should end or ended before `ended_before`,
    /// and the id to continue after; `None` at the end.
    pub(crate) async fn convos_due(
        &self,
        after: &str,
        cutoff: DateTime<Utc>,
        convos: i64,
        ended_before: DateTime<Utc>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        self.due(&CONVOS_DUE, &[&after, &cutoff, &convos, &ended_before]).await
    }

    async fn due(&self, query: &Query, params: Params<'_>) -> Result<(Vec<String>, Option<String>), Error> {
        let rows = self.rows(query, params).await?;
        let last = rows.last().map(|row| row.get("id"));
        Ok((rows.iter().filter(|row| row.get("due")).map(|row| row.get("id")).collect(), last))
    }

    /// Returns the names of objects whose bytes are to be deleted, in order, after a name.
    pub(crate) async fn given_up_objects(&self, after: &str, objects: i64) -> Result<Vec<String>, Error> {
        let rows = self.rows(&GIVEN_UP_OBJECTS, &[&after, &objects]).await?;
        Ok(rows.iter().map(|row| row.get("name")).collect())
    }

    /// Returns the next conversation after this id.
    pub(crate) async fn next_convo(&self, after: &str) -> Result<Option<String>, Error> {
        Ok(self.find(&NEXT_CONVO, &[&after]).await?.map(|row| row.get("id")))
    }
}
