//! The end of a conversation that is abandoned ([`crate::jobs`]) or that an operator deletes: its memberships end, and later its rows are
//! deleted. Every chunk takes the conversation's lock and its row, so that no writer of either serializer is in the middle of a change.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::query::query;
use super::session::Queries;
use super::sweeps::{ChunkResult, MAX_LOG_BYTES};
use super::{Abort, Exclusive, Tx, epochs, welcomes};

query! {
    TRY = "sweeps/try_convo" (TEXT);
    HOLD = "sweeps/hold_convo" (TEXT, TIMESTAMPTZ);
    PART = "sweeps/part" (TEXT, TIMESTAMPTZ, INT8);
    END = "sweeps/end_convo" (TEXT);
    ERASE = "sweeps/erase" (TEXT, INT8, INT8);
    ERASE_MEMBERS = "sweeps/erase_members" (TEXT, INT8);
    ERASE_CONVO = "sweeps/erase_convo" (TEXT);
    EMPTY = "convos/empty" (TEXT, INT8, INT8, INT8);
}

/// Runs one chunk. There is more to do as long as a chunk did something. A conversation whose lock is taken is not abandoned.
pub(super) async fn portion(
    tx: &Tx,
    convo: &str,
    rows: i64,
    cutoff: DateTime<Utc>,
    ended_before: DateTime<Utc>,
) -> Result<ChunkResult, Abort> {
    let done = async {
        if tx.find(&TRY, &[&convo]).await?.is_none() {
            return Ok(0);
        }
        let Some(convo_row) = tx.find(&HOLD, &[&convo, &ended_before]).await? else { return Ok(0) };
        match (convo_row.get("ended"), convo_row.get("over")) {
            (false, _) => part(tx, convo, rows, Some(cutoff)).await,
            (true, true) => erase(tx, convo, rows).await,
            (true, false) => Ok::<i64, Abort>(0),
        }
    };
    let deleted = done.await?;
    let more = (deleted > 0).then(|| convo.to_owned());
    Ok(ChunkResult { deleted, more: HashSet::from_iter(more) })
}

/// Ends memberships. With the last one the conversation has ended.
async fn part(tx: &Tx, convo: &str, rows: i64, cutoff: Option<DateTime<Utc>>) -> Result<i64, Abort> {
    let parted = part_members(tx, convo, rows, cutoff).await?;
    Ok(parted + i64::from(end(tx, convo).await?))
}

/// Ends memberships: if the conversation is abandoned since `cutoff`, or without one, whatever happens in it. Returns their number.
async fn part_members(tx: &Tx, convo: &str, rows: i64, cutoff: Option<DateTime<Utc>>) -> Result<i64, Abort> {
    let Some(row) = tx.find(&PART, &[&convo, &cutoff, &rows]).await? else { return Ok(0) };
    welcomes::forget(tx, row.get("withdrawn")).await?;
    Ok(row.get("parted"))
}

/// Ends a conversation if it has no members any more, and returns whether it did. A statement of its own, which sees the roster as it is now.
async fn end(tx: &Tx, convo: &str) -> Result<bool, Abort> {
    let ended: i64 = tx.find(&END, &[&convo]).await?.map_or(0, |row| row.get("ended"));
    Ok(ended > 0)
}

/// Ends a conversation whose last member has left.
pub(crate) async fn end_empty(x: &mut Exclusive<'_>) -> Result<bool, Abort> {
    end(x.tx, x.convo.as_str()).await
}

/// What one portion of a deletion by an operator has changed.
#[derive(Debug, Clone, Default)]
pub struct Deleted {
    /// Memberships that ended.
    pub members: i64,
    /// Entries whose bytes were deleted, and those bytes.
    pub entries: i64,
    pub bytes: i64,
    pub envelopes: i64,
    /// Seq up to which the log was emptied.
    pub last: i64,
    /// There may be more to do.
    pub more: bool,
}

/// Removes at most `rows` members of a conversation, or deletes as much of its content after `after` once it has ended. Errors:
/// `ConvoNotFound`.
pub(crate) async fn delete(x: &mut Exclusive<'_>, rows: i64, after: i64) -> Result<Deleted, Abort> {
    let convo = x.convo.as_str();
    let never: Option<DateTime<Utc>> = None;
    let held = x.tx.find(&HOLD, &[&convo, &never]).await?.ok_or_else(epochs::not_found)?;
    if !held.get::<_, bool>("ended") {
        let members = part_members(x.tx, convo, rows, None).await?;
        end(x.tx, convo).await?;
        return Ok(Deleted { members, more: true, ..Deleted::default() });
    }
    let row = x.tx.find(&EMPTY, &[&convo, &after, &rows, &MAX_LOG_BYTES]).await?;
    let row = row.expect("a select of aggregates returns one row");
    Ok(Deleted {
        members: 0,
        entries: row.get("entries"),
        bytes: row.get("bytes"),
        envelopes: row.get("envelopes"),
        last: row.get("last"),
        more: row.get("more"),
    })
}

async fn erase(tx: &Tx, convo: &str, rows: i64) -> Result<i64, Abort> {
    let count = |row: Option<tokio_postgres::Row>| row.map_or(0, |row| row.get::<_, i64>("deleted"));
    let deleted = count(tx.find(&ERASE, &[&convo, &rows, &MAX_LOG_BYTES]).await?);
    if deleted > 0 {
        return Ok(deleted);
    }
    match count(tx.find(&ERASE_MEMBERS, &[&convo, &rows]).await?) {
        0 => Ok(count(tx.find(&ERASE_CONVO, &[&convo]).await?)),
        deleted => Ok(deleted),
    }
}
