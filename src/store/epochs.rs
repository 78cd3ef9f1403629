//! Position of a conversation, and the lock of its row for changes without a commit.

use tokio_postgres::Row;

use crate::error::Code;
use crate::ids::ConvoId;

use super::position::Position;
use super::query::query;
use super::session::Queries;
use super::{Abort, Exclusive, LockMode};

query! {
    LOCK_ROW = "epochs/lock_row" (TEXT, INT8, INT8);
    FIND = "epochs/find" (TEXT);
}

/// Result of a compare-and-swap. Losing is a value, not an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// Won: the new position.
    To(Position),
    /// Lost: the actual position.
    Lost(Position),
}

/// Returns the position of a conversation. The caller must check that the client may learn it.
pub(crate) async fn find(db: &impl Queries, convo: &ConvoId) -> Result<Option<Position>, Abort> {
    Ok(db.find(&FIND, &[&convo.as_str()]).await?.as_ref().map(Position::from))
}

/// Moves the position by one entry, without the entry.
#[cfg(test)]
pub(crate) async fn extend(x: &mut Exclusive<'_>) -> Result<Swap, Abort> {
    const EXTEND: super::Query = super::Query {
        name: "test/extend",
        text: "update conversations set last_seq = last_seq + 1
                where id = $1 and ($2::bigint is null or (current_epoch = $2 and last_seq = $3)) returning current_epoch, last_seq",
        types: &[tokio_postgres::types::Type::TEXT, tokio_postgres::types::Type::INT8, tokio_postgres::types::Type::INT8],
    };
    let (at_epoch, at_seq) = x.mode.remembered();
    let row = x.tx.find(&EXTEND, &[&x.convo.as_str(), &at_epoch, &at_seq]).await?;
    settle(x, row).await
}

/// Prepares another run of a statement that found the row changed since its snapshot: it has locked the row by now. Errors:
/// [`Abort::Moved`] for an actor, which has to learn the new position.
pub(super) async fn moved(x: &Exclusive<'_>) -> Result<(), Abort> {
    match x.mode {
        LockMode::Lock => Ok(()),
        LockMode::Remembered(_) => match find(x.tx, x.convo).await? {
            Some(actual) => Err(Abort::Moved(actual)),
            None => Err(not_found().into()),
        },
    }
}

/// Locks the row of the conversation, for a change of the roster without a commit. Every other writer waits.
pub(crate) async fn lock_row(x: &mut Exclusive<'_>) -> Result<Position, Abort> {
    let (at_epoch, at_seq) = x.mode.remembered();
    let row = x.tx.find(&LOCK_ROW, &[&x.convo.as_str(), &at_epoch, &at_seq]).await?;
    match settle(x, row).await? {
        Swap::To(at) => Ok(at),
        // Under the lock only a missing conversation makes this fail, and `settle` has handled that.
        Swap::Lost(at) => Err(Abort::Moved(at)),
    }
}

/// Returns the new position, or the actual one after a lost swap. A wrong remembered position says nothing about the
/// request, so it is returned as [`Abort::Moved`].
async fn settle(x: &mut Exclusive<'_>, row: Option<Row>) -> Result<Swap, Abort> {
    if let Some(row) = row {
        let at = Position::from(&row);
        x.at = Some(at);
        return Ok(Swap::To(at));
    }
    let Some(actual) = find(x.tx, x.convo).await? else {
        return Err(not_found().into());
    };
    match x.mode {
        LockMode::Remembered(at) if at != actual => Err(Abort::Moved(actual)),
        _ => {
            x.at = Some(actual);
            Ok(Swap::Lost(actual))
        }
    }
}

/// Error for callers that were never a member, whether or not the conversation exists.
pub(crate) fn not_found() -> crate::error::Error {
    Code::ConvoNotFound.because("there is no such conversation, or you were never in it")
}

impl super::Reader {
    /// Returns the position of a conversation. Errors: `ConvoNotFound`.
    pub async fn position(&self, convo: &ConvoId) -> Result<Position, crate::error::Error> {
        find(self, convo).await?.ok_or_else(not_found)
    }
}
