//! Reports of members about commits, and the conclusions from them: forks, and wedged conversations.

use crate::error::Error;
use crate::ids::Did;
use crate::store::epochs;
use crate::wire::ConvoState;

use super::lanes::Lane;
use super::query::query;
use super::session::Queries;
use super::{Abort, Exclusive, Store};

query! {
    PUT = "commit_reports/put" (TEXT, INT8, INT8, TEXT, BYTEA, BYTEA, BOOL);
    SETTLE = "commit_reports/settle" (TEXT, INT8, INT8, TEXT, INT8, INT8, INT8, INT8);
    IS_WEDGED = "commit_reports/is_wedged" (TEXT);
    COUNT_WEDGED = "commit_reports/count_wedged" ();
}

/// Smallest quorum of members that makes a conversation wedged. No member alone can.
const MIN_QUORUM: i64 = 2;

/// A member's report about the commit of an epoch.
#[derive(Debug, Clone)]
pub struct CommitReport {
    /// The epoch that the commit creates.
    pub epoch: i64,
    /// SHA-256 of the commit that the member has.
    pub commit_hash: [u8; 32],
    /// MLS epoch authenticator of the epoch, if the member is in it.
    pub epoch_authenticator: Option<Vec<u8>>,
    /// The member could apply the commit.
    pub applied: bool,
}

/// Number of members that cannot apply commits, and its meaning.
#[derive(Debug, Clone, Copy)]
pub struct Tally {
    pub unable: i64,
    /// Number of such members from which on the conversation is wedged.
    pub quorum: i64,
    pub state: ConvoState,
}

/// Generation and epoch of a conversation, whose row must be locked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Present {
    pub generation: i64,
    pub epoch: i64,
}

/// Stores a report in place of the member's earlier one, tells the members of a fork or of the conversation's new state, and returns the
/// tally. Reports of epochs before `oldest` do not count.
pub(crate) async fn put(
    x: &Exclusive<'_>,
    member: &Did,
    report: &CommitReport,
    present: Present,
    oldest: i64,
    quorum_percent: i64,
) -> Result<Tally, Abort> {
    let (convo, did) = (x.convo.as_str(), member.as_str());
    let CommitReport { epoch, commit_hash, epoch_authenticator, applied } = report;
    let Present { generation, epoch: current } = present;
    x.tx.rows(&PUT, &[&convo, &generation, epoch, &did, &commit_hash.as_slice(), epoch_authenticator, applied]).await?;
    let row =
        x.tx.find(&SETTLE, &[&convo, &generation, epoch, &did, &current, &oldest, &quorum_percent, &MIN_QUORUM])
            .await?;
    let row = row.ok_or_else(epochs::not_found)?;
    let state = if row.get("wedged") { ConvoState::Wedged } else { ConvoState::Active };
    Ok(Tally { unable: row.get("unable"), quorum: row.get("quorum"), state })
}

/// Returns whether a conversation is wedged.
pub(crate) async fn is_wedged(x: &Exclusive<'_>) -> Result<bool, Abort> {
    let row = x.tx.find(&IS_WEDGED, &[&x.convo.as_str()]).await?;
    Ok(row.is_some_and(|row| row.get("wedged")))
}

impl Store {
    /// Returns the number of wedged conversations.
    pub(crate) async fn wedged_convos(&self) -> Result<i64, Error> {
        let row = self.reader_for(Lane::Background).await?.find(&COUNT_WEDGED, &[]).await?;
        Ok(row.map_or(0, |row| row.get("wedged")))
    }
}
