//! Event rows that commands write beside the log.

use chrono::{DateTime, TimeDelta, Utc};

use super::super::key_packages::{Holder, in_step};
use super::super::position::Position;
use super::super::query::query;
use super::super::session::Queries;
use super::super::{Abort, Exclusive, Tx};
use crate::ids::{ConvoId, Did};

query! {
    LEFT = "events/left" (TEXT, TEXT, TEXT, INT8, INT8);
    READ = "events/read" (TEXT, TEXT, INT8, TEXT);
    KEY_PACKAGES_LOW = "events/key_packages_low" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ, INT8);
    LAST_RESORT_USED = "events/last_resort_used" (BYTEA_ARRAY, TIMESTAMPTZ, TIMESTAMPTZ);
}

/// Number of one-time key packages below which their owner is told when one is taken.
pub const LOW_KEY_PACKAGES: i64 = 5;
/// Time for which an owner is not told again that the same last-resort package was issued.
const LAST_RESORT_QUIET: TimeDelta = TimeDelta::hours(1);

/// Writes the event rows of a membership that ended.
pub(in crate::store) async fn left(x: &Exclusive<'_>, did: &Did, actor: &Did, at: Position) -> Result<(), Abort> {
    x.tx().rows(&LEFT, &[&x.convo().as_str(), &did.as_str(), &actor.as_str(), &at.epoch, &at.seq]).await?;
    Ok(())
}

/// A member's read position, and the time at which it was reached.
pub struct ReadTo {
    pub seq: i64,
    pub at: DateTime<Utc>,
}

/// Moves a member's read position forward to an entry, or to the newest one, and tells its devices. `None`: not a
/// member.
pub(crate) async fn read(
    tx: &Tx,
    convo: &ConvoId,
    did: &Did,
    seq: Option<i64>,
    entry: Option<&str>,
) -> Result<Option<ReadTo>, Abort> {
    let row = tx.find(&READ, &[&convo.as_str(), &did.as_str(), &seq, &entry]).await?;
    Ok(row.map(|row| ReadTo { seq: row.get("seq"), at: row.get("read_at") }))
}

/// Tells the owners of those devices that have few key packages left.
pub(crate) async fn key_packages_low(tx: &Tx, of: &[Holder], now: DateTime<Utc>) -> Result<(), Abort> {
    if !of.is_empty() {
        let (owners, devices) = in_step(of);
        tx.rows(&KEY_PACKAGES_LOW, &[&owners, &devices, &now, &LOW_KEY_PACKAGES]).await?;
    }
    Ok(())
}

/// Tells the owners of last-resort packages that were issued.
pub(crate) async fn last_resort_used(tx: &Tx, hashes: &[&[u8]], now: DateTime<Utc>) -> Result<(), Abort> {
    if !hashes.is_empty() {
        tx.rows(&LAST_RESORT_USED, &[&hashes, &now, &(now - LAST_RESORT_QUIET)]).await?;
    }
    Ok(())
}
