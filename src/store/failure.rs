//! Failures of units of work: which are retried, which the client gets as its error, and which are defects.

use std::time::Duration;

use deadpool_postgres::PoolError;
use tokio_postgres::error::{DbError, SqlState};

use crate::error::{Code, Error, Outcome};

use super::position::Position;

/// Reason why a unit of work ended without a result. Everything that it wrote is rolled back.
#[derive(Debug)]
pub enum Abort {
    /// The request is refused; the client gets this error.
    Refused(Error),
    /// The conversation is not at the remembered position, but here.
    Moved(Position),
    /// Nothing was written, and the next attempt may succeed: a lost connection, a deadlock.
    Again(Cause),
    /// A unique key is taken, possibly by a concurrent duplicate of this request: then the next attempt finds its result. If the key is
    /// still taken then, this is the client's error.
    Taken(Error),
}

/// Reason for another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The connection broke before COMMIT was sent, or could not be opened.
    Connection,
    /// PostgreSQL chose this transaction as the victim of a deadlock or a serialisation failure.
    Deadlock,
    /// A unique key was taken in the meantime.
    Taken,
    /// The reply to COMMIT was lost and the transaction turned out to be rolled back.
    RolledBack,
    /// Everything was sent, COMMIT included, and not answered. It may be committed, so only work that recognises itself is retried.
    Unanswered,
}

impl Cause {
    /// The label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Cause::Connection => "connection",
            Cause::Deadlock => "deadlock",
            Cause::Taken => "taken",
            Cause::RolledBack => "rolled_back",
            Cause::Unanswered => "unanswered",
        }
    }
}

/// The error for an unknown outcome.
pub fn unconfirmed() -> Error {
    let mut error = Code::DatabaseUnavailable.because("");
    error.details.outcome = Some(Outcome::Unknown);
    error.with_retry_hint("send the same request again to learn the outcome")
}

impl From<Error> for Abort {
    fn from(error: Error) -> Self {
        Abort::Refused(error)
    }
}

/// Returns the meaning of a violated constraint, by name. A name that is not here is a defect.
fn constraint(name: &str) -> Option<Abort> {
    let (code, message) = match name {
        "messages_id_key" => (Code::IdempotencyConflict, "this msgId is already used in this conversation"),
        "idempotency_records_pkey" => {
            (Code::IdempotencyConflict, "this idempotencyKey is being used by another request")
        }
        "messages_commit_epoch_key" | "messages_commit_bytes_key" | "messages_pkey" => {
            (Code::Overloaded, "another writer was faster; nothing was changed")
        }
        "conversations_group_id_key" => (Code::ConvoAlreadyExists, "this group id is taken"),
        _ => return None,
    };
    Some(Abort::Taken(code.because(message)))
}

/// The error for a timeout of PostgreSQL.
pub fn overloaded(what: &str) -> Error {
    Code::Overloaded.because(format!("{what} took too long; nothing was changed"))
}

/// The error when PostgreSQL was unreachable for longer than a request can wait.
pub fn unavailable() -> Error {
    Code::DatabaseUnavailable.because("the database cannot be reached; nothing was changed")
}

impl From<tokio_postgres::Error> for Abort {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // Without an answer from PostgreSQL it is either the connection or our own misuse of the driver.
            return match error.is_closed()
                || std::error::Error::source(&error).is_some_and(|s| s.is::<std::io::Error>())
            {
                true => Abort::Again(Cause::Connection),
                false => Abort::Refused(Error::internal(&error)),
            };
        };
        match db.code() {
            &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => Abort::Again(Cause::Deadlock),
            &SqlState::LOCK_NOT_AVAILABLE => Abort::Refused(overloaded("waiting for the conversation's lock")),
            &SqlState::QUERY_CANCELED => Abort::Refused(overloaded("a statement")),
            &SqlState::UNIQUE_VIOLATION | &SqlState::CHECK_VIOLATION => {
                db.constraint().and_then(constraint).unwrap_or_else(|| Abort::Refused(defect(db)))
            }
            code if is_exhausted(code) => Abort::Refused(exhausted(db)),
            code if ends_connection(code) => Abort::Again(Cause::Connection),
            _ => Abort::Refused(defect(db)),
        }
    }
}

/// An unforeseen error of PostgreSQL. Its message and detail quote values of rows, so they are logged at debug level only.
fn defect(db: &DbError) -> Error {
    tracing::debug!(message = db.message(), detail = db.detail(), "PostgreSQL refused a statement");
    let (table, constraint) = (db.table().unwrap_or("no table"), db.constraint().unwrap_or("no constraint"));
    Error::internal(format!("PostgreSQL answered SQLSTATE {} ({table}, {constraint})", db.code().code()))
}

/// Wait before a client retries when PostgreSQL is out of resources.
const EXHAUSTED: Duration = Duration::from_secs(10);

/// Returns whether this code means that PostgreSQL has no disk (53100), no memory (53200) or not enough of another resource (53000). That
/// passes, or an operator fixes it. Work that needs no such resource goes on, as reads do while the disk is full, so the server stays
/// ready.
fn is_exhausted(code: &SqlState) -> bool {
    matches!(code.code(), "53000" | "53100" | "53200")
}

fn exhausted(db: &DbError) -> Error {
    tracing::error!(sqlstate = db.code().code(), "PostgreSQL has run out of disk or memory");
    let mut error = Code::DatabaseUnavailable.because("the database is out of space; nothing was changed");
    error.details.retry_after_ms = u64::try_from(EXHAUSTED.as_millis()).ok();
    error
}

/// Returns whether this code means that the connection or the server is going away: class 08 (connection
/// exceptions), class 57 (operator intervention), 25P03 (idle in transaction) and 53300 (too many connections), that this server
/// does not write ([`is_read_only`]), that it refuses this role (class 28), or that it has no such database (3D000).
pub fn ends_connection(code: &SqlState) -> bool {
    code.code().starts_with("08")
        || code.code().starts_with("57P")
        || code.code().starts_with("28")
        || matches!(code.code(), "25P03" | "3D000" | "53300")
        || is_read_only(code)
}

/// Returns whether this code means that PostgreSQL only reads, as a standby does: 25006 to a statement that writes, 0A000 to
/// `begin read write`.
pub fn is_read_only(code: &SqlState) -> bool {
    matches!(code.code(), "25006" | "0A000")
}

impl From<PoolError> for Abort {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Backend(error) => Abort::from(error),
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
                Abort::Refused(overloaded("waiting for a database connection"))
            }
            PoolError::Timeout(_) => Abort::Again(Cause::Connection),
            other => Abort::Refused(Error::internal(other)),
        }
    }
}

/// Returns the client's error when no retry is left.
impl From<Abort> for Error {
    fn from(abort: Abort) -> Self {
        match abort {
            Abort::Refused(error) | Abort::Taken(error) => error,
            Abort::Moved(_) => overloaded("keeping up with the other writers of this conversation"),
            Abort::Again(Cause::Connection | Cause::RolledBack) => unavailable(),
            Abort::Again(Cause::Unanswered) => unconfirmed(),
            Abort::Again(Cause::Deadlock | Cause::Taken) => overloaded("getting past other writers"),
        }
    }
}

/// An error of the driver with PostgreSQL's message, for operators who set a server up. Never for requests, because the message may quote
/// values.
pub fn in_words(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error).map(words_of) {
        Some(source) if !error.to_string().contains(&source) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// Returns an error's message. Of PostgreSQL's errors it leaves out the detail, which quotes whole rows.
pub fn words_of(error: &(dyn std::error::Error + 'static)) -> String {
    match error.downcast_ref::<DbError>() {
        Some(db) => format!("{}: {}", db.severity(), db.message()),
        None => error.to_string(),
    }
}
