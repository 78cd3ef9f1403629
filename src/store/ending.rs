//! The end of an abandoned conversation ([`crate::jobs`]): its memberships end, and later its rows are deleted. Every chunk takes the
//! conversation's lock, if that is free, and its row, so that no writer of either serializer is in the middle of a change.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use super::query::query;
use super::session::Queries;
use super::sweeps::{ChunkResult, MAX_LOG_BYTES};
use super::{Abort, Tx, welcomes};

query! {
    TRY = "sweeps/try_convo" (TEXT);
    HOLD = "sweeps/hold_convo" (TEXT, TIMESTAMPTZ);
    PART = "sweeps/part" (TEXT, TIMESTAMPTZ, INT8);
    END = "sweeps/end_convo" (TEXT);
    ERASE = "sweeps/erase" (TEXT, INT8, INT8);
    ERASE_MEMBERS = "sweeps/erase_members" (TEXT, INT8);
    ERASE_CONVO = "sweeps/erase_convo" (TEXT);
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
            (false, _) => part(tx, convo, rows, cutoff).await,
            (true, true) => erase(tx, convo, rows).await,
            (true, false) => Ok::<i64, Abort>(0),
        }
    };
    let deleted = done.await?;
    let more = (deleted > 0).then(|| convo.to_owned());
    Ok(ChunkResult { deleted, more: HashSet::from_iter(more) })
}

/// Ends memberships. With the last one the conversation has ended.
async fn part(tx: &Tx, convo: &str, rows: i64, cutoff: DateTime<Utc>) -> Result<i64, Abort> {
    let Some(row) = tx.find(&PART, &[&convo, &cutoff, &rows]).await? else { return Ok(0) };
    welcomes::forget(tx, row.get("withdrawn")).await?;
    // A statement of its own, which sees the roster as it is now.
    let ended = tx.find(&END, &[&convo]).await?.map_or(0, |row| row.get("ended"));
    Ok(row.get::<_, i64>("parted") + ended)
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
