//! Erasure of what is stored of a person, in portions: in each of its conversations, and beside them. Entries of logs stay, and so does
//! what [`docs/operations.md`](../../../docs/operations.md#administration) names.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{Abort, Exclusive, Tx, epochs, welcomes};

query! {
    MEMBER = "erasure/member" (TEXT, TEXT, INT8);
    MEMBERSHIP = "erasure/membership" (TEXT, TEXT);
    FIND_MAILBOXES = "erasure/find_mailboxes" (TEXT);
    HOLD_FAN_OUT = "erasure/hold_fan_out" ();
    MAILBOXES = "erasure/mailboxes" (TEXT);
    KEY_PACKAGES_OF_OTHERS = "erasure/key_packages_of_others" (TEXT, INT8);
    KEY_PACKAGES = "erasure/key_packages" (TEXT, INT8);
    PERSON = "erasure/person" (TEXT, INT8);
}

/// Numbers of rows by what they are.
pub type Tally = BTreeMap<String, i64>;

/// Adds numbers to others.
pub fn add(total: &mut Tally, more: Tally) {
    for (name, number) in more {
        *total.entry(name).or_default() += number;
    }
}

/// Parses the numbers that a statement returns.
pub(super) fn tally(row: &Row) -> Result<Tally, Error> {
    serde_json::from_str(row.get("counts")).map_err(Error::internal)
}

/// Deletes rows of a person in one conversation, at most `rows` of each table, but not its membership. Returns what was changed, and
/// whether there may be more.
pub(crate) async fn in_convo(x: &mut Exclusive<'_>, did: &Did, rows: i64) -> Result<(Tally, bool), Abort> {
    let found = x.tx.find(&MEMBER, &[&x.convo.as_str(), &did.as_str(), &rows]).await?;
    let row = found.expect("a select of aggregates returns one row");
    welcomes::forget(x.tx, row.get("withdrawn")).await?;
    Ok((tally(&row)?, row.get("more")))
}

/// Deletes a membership that has ended, or its positions if the membership has to stay known. Returns the number of deleted ones, and
/// whether the conversation has ended.
pub(crate) async fn membership(x: &mut Exclusive<'_>, did: &Did) -> Result<(i64, bool), Abort> {
    let row = x.tx.find(&MEMBERSHIP, &[&x.convo.as_str(), &did.as_str()]).await?.ok_or_else(epochs::not_found)?;
    Ok((row.get("deleted"), row.get("over")))
}

/// Deletes the mailboxes of a person. No envelope is made for them afterwards.
pub(crate) async fn mailboxes(tx: &Tx, did: &Did) -> Result<Tally, Abort> {
    if tx.find(&FIND_MAILBOXES, &[&did.as_str()]).await?.is_none() {
        return Ok(Tally::new());
    }
    // A statement of its own, so that the next one sees what the expansion has committed.
    tx.rows(&HOLD_FAN_OUT, &[]).await?;
    let row = tx.find(&MAILBOXES, &[&did.as_str()]).await?;
    Ok(row.as_ref().map(tally).transpose()?.unwrap_or_default())
}

/// Deletes what is stored of a person beside its conversations, at most `rows` of each table. Returns what was changed, and whether there
/// may be more. The person's key packages must be locked.
pub(crate) async fn beside_convos(tx: &Tx, did: &Did, rows: i64) -> Result<(Tally, bool), Abort> {
    let mut total = Tally::new();
    // Devices go last, since a key package that can be issued has one.
    for query in [&KEY_PACKAGES_OF_OTHERS, &KEY_PACKAGES, &PERSON] {
        let found = tx.find(query, &[&did.as_str(), &rows]).await?;
        let row = found.expect("a select of aggregates returns one row");
        add(&mut total, tally(&row)?);
        if row.get("more") {
            return Ok((total, true));
        }
    }
    Ok((total, false))
}
