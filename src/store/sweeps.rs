//! Deleting what is old: small transactions, each of which one replica at a time may make.
//!
//! Most tables are read from their first page to their last, a few pages at a time, which needs no index and so costs no request
//! anything. Logs are shortened from their beginning, conversation by conversation, through their primary key. [`crate::jobs`]
//! says what is old and when to look.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

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
    LOGS_DUE = "sweeps/logs_due" (TEXT, TIMESTAMPTZ, INT8, TIMESTAMPTZ);
    CONVOS_DUE = "sweeps/convos_due" (TEXT, TIMESTAMPTZ, INT8, TIMESTAMPTZ);
    USED_TOKENS = "sweeps/used_tokens" (INT4);
    UNOPENED = "sweeps/unopened" (TEXT, TEXT, TIMESTAMPTZ, INT8);
    WITHDRAW = "sweeps/withdraw" (TEXT_ARRAY);
    LOGS = "sweeps/logs" (TEXT_ARRAY, TIMESTAMPTZ, INT8, INT8);
    LOG_COMMITS = "sweeps/log_commits" (TEXT_ARRAY, INT8, INT8, TIMESTAMPTZ);
    NEXT_CONVO = "sweeps/next_convo" (TEXT);
}

/// Ciphertext after which one transaction takes no further entry of a log, so that it deletes less than twice as much.
pub(super) const LOG_BYTES: i64 = 16 * 1024 * 1024;
/// How many slots there are for used tokens (V022).
pub(crate) const USED_TOKEN_SLOTS: i32 = 16;
/// How long the replica that makes a pass may be silent before another one goes on with it.
const SILENCE: Duration = Duration::from_secs(60);

/// A table that is swept page by page.
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
        }
    }
}

/// Rows that one transaction of a sweep deletes.
#[derive(Debug, Clone)]
pub enum Chunk {
    /// The old rows among so many pages of a table, from this one on.
    Pages { table: Table, from: i64, pages: i64 },
    /// Old entries at the beginnings of these conversations' logs, so many of each; commits too that were made before this, whoever has
    /// yet to read them.
    Logs { convos: Vec<String>, entries: i64, unread_before: Option<DateTime<Utc>> },
    /// A slot of used tokens.
    UsedTokens { slot: i32 },
    /// So many members or rows of a conversation that nobody comes back to; rows if it has ended before this.
    Convo { convo: String, rows: i64, ended_before: DateTime<Utc> },
}

/// Result of one transaction of a sweep.
#[derive(Debug, Clone)]
pub struct ChunkResult {
    /// Rows that were deleted.
    pub deleted: i64,
    /// What may have more of the same: conversations, or the page that was begun with.
    pub more: HashSet<String>,
}

/// One transaction of a pass.
pub(crate) struct Sweep {
    pub job: &'static str,
    pub cutoff: DateTime<Utc>,
    pub chunk: Chunk,
    /// Where the pass goes on when this is done, for whoever does.
    pub place: String,
    /// Note the place even if nothing was deleted.
    pub note: bool,
}

impl Transaction for Sweep {
    const NAME: &'static str = "sweep";
    const LANE: Lane = Lane::Background;
    /// `None`: another replica is at it.
    type Output = Option<ChunkResult>;

    async fn execute(&self, tx: &Tx) -> Result<Option<ChunkResult>, Abort> {
        let limit = background::STATEMENT.as_millis().to_string();
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
            Chunk::Convo { convo, rows, ended_before } => {
                ending::portion(tx, convo, *rows, self.cutoff, *ended_before).await?
            }
            Chunk::Logs { convos, entries, unread_before } => {
                let messages = tx.find(&LOGS, &[convos, &self.cutoff, entries, &LOG_BYTES]).await?;
                let commits = tx.find(&LOG_COMMITS, &[convos, entries, &LOG_BYTES, unread_before]).await?;
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

/// Deletes Welcomes that nobody has opened, from these pages of their bytes.
async fn unopened(tx: &Tx, from: i64, pages: i64, cutoff: DateTime<Utc>) -> Result<ChunkResult, Abort> {
    let (first, end) = (format!("({from},0)"), format!("({},0)", from + pages));
    let lines = tx.rows(&UNOPENED, &[&first, &end, &cutoff, &LOG_BYTES]).await?;
    let more = lines.first().is_some_and(|line| line.get("more")).then(|| from.to_string());
    let welcomes: HashSet<String> = lines.iter().map(|line| line.get("welcome_id")).collect();
    let welcomes: Vec<String> = welcomes.into_iter().collect();
    // Statements of their own, which see what the locks have waited for.
    let deleted = match tx.find(&WITHDRAW, &[&welcomes]).await? {
        Some(row) => row.get("deleted"),
        None => 0,
    };
    welcomes::forget(tx, welcomes).await?;
    Ok(ChunkResult { deleted, more: HashSet::from_iter(more) })
}

/// A pass that was begun, or taken over.
#[derive(Debug)]
pub(crate) struct Begun {
    /// What is older may be deleted.
    pub cutoff: DateTime<Utc>,
    /// Where to go on; `None` for the beginning.
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
        let (every, silence) = (self.every.as_secs_f64(), self.every.min(SILENCE).as_secs_f64());
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
    /// Begins a pass of a job that deletes what is this old, or goes on with one whose replica has died. `None`: the last pass, wherever
    /// it was, began less than `every` ago, or one is being made.
    pub(crate) async fn begin_sweep(
        &self,
        job: &'static str,
        every: Duration,
        age: TimeDelta,
    ) -> Result<Option<Begun>, Error> {
        self.transact(Begin { job, every, age }).await
    }

    /// Ends a pass.
    pub(crate) async fn finish_sweep(&self, job: &'static str) -> Result<(), Error> {
        self.transact(Finish(job)).await
    }
}

impl Reader {
    /// How many pages a table has now.
    pub(crate) async fn pages(&self, table: Table) -> Result<i64, Error> {
        let row = self.find(&PAGES, &[&table.name()]).await?;
        Ok(row.map_or(0, |row| row.get("pages")))
    }

    /// Looks at so many conversations after this id: those whose logs have something to delete, and the id to go on after; `None` at
    /// the end.
    pub(crate) async fn logs_due(
        &self,
        after: &str,
        cutoff: DateTime<Utc>,
        convos: i64,
        unread_before: Option<DateTime<Utc>>,
    ) -> Result<(Vec<String>, Option<String>), Error> {
        self.due(&LOGS_DUE, &[&after, &cutoff, &convos, &unread_before]).await
    }

    /// The same for conversations that are to end, or have ended before this.
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

    /// The conversation after this id.
    pub(crate) async fn next_convo(&self, after: &str) -> Result<Option<String>, Error> {
        Ok(self.find(&NEXT_CONVO, &[&after]).await?.map(|row| row.get("id")))
    }
}
