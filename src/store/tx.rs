//! An open transaction, and the proof that a conversation is written by nobody else.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::ids::ConvoId;

use super::epochs::Position;
use super::query::Query;
use super::session::{Params, Queries, Session};
use super::shared::Later;
use super::{Abort, failure};

/// An open transaction at READ COMMITTED.
///
/// tokio-postgres does not look at the command tag of COMMIT, and PostgreSQL answers COMMIT in a failed transaction with
/// ROLLBACK and no error. So the transaction remembers that a statement failed, and [`Store::run`](super::Store::run) never
/// commits such a one, whatever the unit of work returned.
pub struct Tx {
    pub(super) session: Session,
    /// Known once the transaction has been opened.
    pub(super) identity: OnceLock<Identity>,
    /// The conversations of a shared transaction, known once it has been opened, and what it puts off to its end.
    pub(super) held: OnceLock<Vec<String>>,
    later: Later,
    failed: AtomicBool,
}

/// What PostgreSQL can be asked about a transaction by, when its COMMIT got no reply.
pub(super) struct Identity {
    pub(super) xid: String,
    /// By PostgreSQL's clock. The id alone is not enough: after a crash it may be given out again.
    pub(super) begun: DateTime<Utc>,
}

impl Tx {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            identity: OnceLock::new(),
            held: OnceLock::new(),
            later: Later::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// The conversations that a shared transaction may write; empty in others.
    pub(super) fn held(&self) -> &[String] {
        self.held.get().map_or(&[], Vec::as_slice)
    }

    /// What is put off to the end of a shared transaction.
    pub(super) fn later(&self) -> &Later {
        &self.later
    }

    /// Whether several commands run in this transaction.
    pub(super) fn is_shared(&self) -> bool {
        self.held.get().is_some()
    }

    /// Makes these statements ready to go in one flush, in the order in which they are polled.
    pub(super) async fn prepare(&self, queries: &[&Query]) -> Result<(), Abort> {
        let prepared = self.session.prepare(queries).await;
        if prepared.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        Ok(prepared?)
    }

    /// Whether a statement failed, which dooms the transaction.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Queries for Tx {
    async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Abort> {
        let rows = self.session.rows(query, params).await;
        let Err(error) = rows else { return Ok(rows?) };
        self.failed.store(true, Ordering::Relaxed);
        // Only says that the statement of another command has failed, whose own error tells more.
        match error.code() {
            Some(&SqlState::IN_FAILED_SQL_TRANSACTION) if self.is_shared() => {
                Err(failure::overloaded("a shared transaction").into())
            }
            _ => Err(error.into()),
        }
    }
}

/// How a unit of work came to write a conversation alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It holds the conversation's advisory lock.
    Lock,
    /// It is the one actor of the conversation here and remembers where it stands; the first statement that moves or holds
    /// the position fails if another replica has moved it.
    Remembered(Position),
}

impl Hold {
    /// The remembered position as two parameters, null under the lock.
    pub(super) fn remembered(self) -> (Option<i64>, Option<i64>) {
        match self {
            Hold::Lock => (None, None),
            Hold::Remembered(at) => (Some(at.epoch), Some(at.seq)),
        }
    }
}

/// The right to write one conversation, for as long as this value lives. Only the write path makes one.
///
/// The first thing to do with it is to move or hold the position (`store::epochs`): that locks the row, so that what is read
/// afterwards is the present, also where replicas of both serializers write.
pub struct Exclusive<'t> {
    pub(super) tx: &'t Tx,
    pub(super) convo: &'t ConvoId,
    pub(super) hold: Hold,
    /// Where the conversation will stand when this commits, once known.
    pub(super) at: Option<Position>,
    /// Whether the position was moved or held. Nothing is written before that.
    pub(super) wrote: bool,
}

impl<'t> Exclusive<'t> {
    pub(super) fn new(tx: &'t Tx, convo: &'t ConvoId, hold: Hold) -> Self {
        Self { tx, convo, hold, at: None, wrote: false }
    }
}

impl Exclusive<'_> {
    /// The transaction, for statements that need no more than one.
    pub(crate) fn tx(&self) -> &Tx {
        self.tx
    }

    /// The conversation that may be written.
    pub fn convo(&self) -> &ConvoId {
        self.convo
    }
}

/// The right to write several conversations, for as long as this value lives. Only the write path makes one.
///
/// Which of them these are is known to PostgreSQL alone: statements that demand this value leave out the conversations that are not
/// in the transaction's setting `catbird.held`, which `tx/take` has made. Nothing waits for a conversation's lock while it holds
/// one. What it may still wait for, for a moment, is a row that a replica without locks is writing, which in turn waits for nobody, and
/// idempotency keys, last and in one order: so whoever holds such a value cannot be part of a circle of waiters.
pub struct ExclusiveMany<'t> {
    pub(super) tx: &'t Tx,
}
