//! Position of a conversation, and the three ways to move or lock it. Here a commit wins or loses its epoch.

use tokio_postgres::Row;

use crate::error::Code;
use crate::ids::ConvoId;

use super::messages::{self, NewCommit};
use super::position::Position;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Hold};

query! {
    ADVANCE = "epochs/advance" (TEXT, INT8, INT8);
    EXTEND = "epochs/extend" (TEXT, INT8, INT8, INT8, INT8);
    HOLD = "epochs/hold" (TEXT, INT8, INT8);
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

/// Moves from `expected` to the next epoch with a member's commit, which becomes the newest entry. The second statement
/// follows the first in one flush and appends only where the first has moved the position and the sender is a member.
///
/// The appended epoch comes from the commit's framing, not from the row. If the swap accepted a stale commit, the
/// constraint on one commit per epoch would still refuse it. The second value says whether the commit was appended;
/// otherwise the transaction must not be committed.
pub(crate) async fn advance(
    x: &mut Exclusive<'_>,
    expected: i64,
    commit: &NewCommit<'_>,
) -> Result<(Swap, bool), Abort> {
    let (_, seq) = x.hold.remembered();
    let params: Params<'_> = &[&x.convo.as_str(), &expected, &seq];
    x.tx.prepare(&[&ADVANCE, &messages::APPEND_COMMIT]).await?;
    let (row, appended) =
        tokio::try_join!(biased; x.tx.find(&ADVANCE, params), messages::append_commit(x, expected + 1, commit))?;
    Ok((settle(x, row).await?, appended))
}

/// Reserves the next seq for one application message encrypted in `epoch`, which may lag by `window` epochs.
pub(crate) async fn extend(x: &mut Exclusive<'_>, epoch: i64, window: i64) -> Result<Swap, Abort> {
    let (at_epoch, at_seq) = x.hold.remembered();
    let row = x.tx.find(&EXTEND, &[&x.convo.as_str(), &epoch, &window, &at_epoch, &at_seq]).await?;
    settle(x, row).await
}

/// Locks the row without moving it, so that every other writer waits: for a change of the roster without a commit.
pub(crate) async fn hold(x: &mut Exclusive<'_>) -> Result<Position, Abort> {
    let (at_epoch, at_seq) = x.hold.remembered();
    let row = x.tx.find(&HOLD, &[&x.convo.as_str(), &at_epoch, &at_seq]).await?;
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
    match x.hold {
        Hold::Remembered(at) if at != actual => Err(Abort::Moved(actual)),
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
