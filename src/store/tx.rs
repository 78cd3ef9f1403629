//! An open transaction, and the proof that no other transaction writes a conversation.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_postgres::Row;

use crate::ids::ConvoId;

use super::Abort;
use super::position::Position;
use super::query::Query;
use super::session::{Params, Queries, Session};

/// An open transaction at READ COMMITTED.
///
/// tokio-postgres does not look at the command tag of COMMIT, and PostgreSQL answers COMMIT in a failed transaction with
/// ROLLBACK and no error. So the transaction remembers that a statement failed, and [`Store::run`](super::Store::run) never
/// commits such a one, whatever the unit of work returned.
pub struct Tx {
    pub(super) session: Session,
    /// Known once the transaction has been opened.
    pub(super) identity: OnceLock<Identity>,
    failed: AtomicBool,
}

/// Identity of a transaction, by which PostgreSQL can be asked about it when its COMMIT got no reply.
pub(super) struct Identity {
    pub(super) xid: String,
    /// The id alone is not enough: after a crash PostgreSQL may assign it again.
    pub(super) incarnation: i32,
}

impl Tx {
    pub(super) fn new(session: Session) -> Self {
        Self { session, identity: OnceLock::new(), failed: AtomicBool::new(false) }
    }

    /// Prepares these statements to go in one flush, in the order in which they are polled.
    pub(super) async fn prepare(&self, queries: &[&Query]) -> Result<(), Abort> {
        let prepared = self.session.prepare(queries).await;
        if prepared.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        Ok(prepared?)
    }

    /// Returns whether a statement failed. Then the transaction cannot be committed.
    pub(super) fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Queries for Tx {
    async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Abort> {
        let rows = self.session.rows(query, params).await;
        if rows.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        Ok(rows?)
    }
}

/// Way in which a command gets the right to write its conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// It holds the conversation's advisory lock.
    Lock,
    /// It comes from the one actor of the conversation here, which remembers where that stands. A statement that finds another replica's
    /// write fails: by the remembered position, or by the version of the row that its snapshot saw.
    Remembered(Position),
}

impl LockMode {
    /// Returns the remembered position as two parameters, null under the lock.
    pub(super) fn remembered(self) -> (Option<i64>, Option<i64>) {
        match self {
            LockMode::Lock => (None, None),
            LockMode::Remembered(at) => (Some(at.epoch), Some(at.seq)),
        }
    }
}

/// The right to write one conversation, for as long as this value lives. Only the write path makes one.
///
/// A command first moves or locks the position (`store::epochs`), which locks the row. What it reads afterwards is the present, even if
/// replicas of both serializers write the conversation.
pub struct Exclusive<'t> {
    pub(super) tx: &'t Tx,
    pub(super) convo: &'t ConvoId,
    pub(super) mode: LockMode,
    /// Position of the conversation when this commits, once known.
    pub(super) at: Option<Position>,
}

impl<'t> Exclusive<'t> {
    pub(super) fn new(tx: &'t Tx, convo: &'t ConvoId, mode: LockMode) -> Self {
        Self { tx, convo, mode, at: None }
    }

    /// The same right, for a statement that writes any number of conversations.
    pub(super) fn many(&self) -> ExclusiveMany<'t> {
        ExclusiveMany { tx: self.tx }
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
/// Only PostgreSQL knows which they are: statements that demand this value refuse the conversations that are not in the transaction's
/// setting `catbird.held`. No transaction waits for a conversation's lock while it holds another. A batch may still wait, for 50 ms at most
/// (`tx/take`), for a row that a replica without locks is writing, for one-time key packages and for idempotency keys, each in one order.
/// A cycle with a transaction that takes them in another order ends with that time, long before PostgreSQL looks for deadlocks, and the
/// batch's commands run alone.
pub struct ExclusiveMany<'t> {
    pub(super) tx: &'t Tx,
}
