//! Envelopes made from entries of the log.

use super::super::lanes::Lane;
use super::super::query::query;
use super::super::session::{Params, Queries};
use super::super::{Abort, Failed, Reader, Store, Transaction, Tx};
use crate::error::Error;

query! {
    BEHIND = "mailboxes/behind" ();
    TAKE_FAN_OUT = "mailboxes/take_fan_out" (INT8);
    EXPAND = "mailboxes/expand" (TEXT, TEXT, INT4, TEXT, TEXT, INT8, INT8, INT8);
    MOVE_FAN_OUT = "mailboxes/move_fan_out" (INT4, TEXT);
    PLACE_FAN_OUT = "mailboxes/place_fan_out" (TEXT, TEXT, INT4, TEXT, TEXT, TEXT);
}

/// Number of entries that are expanded together, beyond those of one transaction.
pub(crate) const MAX_ENTRIES: i64 = 200;
/// Envelopes that one transaction makes per entry, and members that it reads per entry.
const ENVELOPES_PER_ENTRY: i64 = 25;
const MEMBERS_PER_ENTRY: i64 = 100;
/// Number of webhooks up to which expansion starts from the webhooks and not from the members.
pub(super) const FEW_WEBHOOKS: i64 = 100;
/// State of the expansion.
pub(crate) struct FanOutState {
    /// True if any mailbox exists.
    pub used: bool,
    /// True if entries wait.
    pub behind: bool,
}

/// One portion of the expansion, of at most this number of entries.
struct Expand(i64);

impl Transaction for Expand {
    const NAME: &'static str = "expandEnvelopes";
    const LANE: Lane = Lane::Background;
    /// Number of envelopes made; `None` if another replica is expanding.
    type Output = Option<i64>;

    async fn execute(&self, tx: &Tx) -> Result<Option<i64>, Abort> {
        let Self(entries) = self;
        let Some(range) = tx.find(&TAKE_FAN_OUT, &[entries]).await? else { return Ok(None) };
        let (low, high, era): (&str, &str, i32) = (range.get("low"), range.get("high"), range.get("era"));
        let (next_era, next_below): (i32, &str) = (range.get("next_era"), range.get("next_below"));
        let (convo, member): (&str, &str) = (range.get("convo"), range.get("member"));
        let (members, envelopes) = (entries * MEMBERS_PER_ENTRY, entries * ENVELOPES_PER_ENTRY);
        let params: Params<'_> = &[&low, &high, &era, &convo, &member, &members, &envelopes, &FEW_WEBHOOKS];
        let Some(made) = tx.find(&EXPAND, params).await? else { return Ok(Some(0)) };
        match (made.get("convo_id"), made.get("member_did")) {
            (Some(convo), Some(member)) => {
                let (convo, member): (&str, &str) = (convo, member);
                tx.rows(&PLACE_FAN_OUT, &[&low, &high, &next_era, &next_below, &convo, &member]).await?;
            }
            _ => {
                tx.rows(&MOVE_FAN_OUT, &[&next_era, &next_below]).await?;
            }
        }
        Ok(Some(made.get("made")))
    }
}

impl Store {
    /// Makes envelopes of at most `entries` entries that have none yet, in one transaction, and returns their number;
    /// `None` if another replica is expanding.
    pub(crate) async fn expand(&self, entries: i64) -> Result<Option<i64>, Failed> {
        self.unit(Expand(entries)).await
    }
}

impl Reader {
    /// Returns the state of the expansion.
    pub(crate) async fn fan_out_state(&self) -> Result<FanOutState, Error> {
        let row = self.find(&BEHIND, &[]).await?;
        let row = row.ok_or_else(|| Error::internal("an expression has no value"))?;
        Ok(FanOutState { used: row.get("used"), behind: row.get("behind") })
    }
}
