//! `admin suspend`, `release`, `suspensions`, `name` and `who`: suspended DIDs, and the names by which the log speaks of callers.

use chrono::SecondsFormat;

use super::{Admin, AdminError};
use crate::ids::Did;
use crate::store::erasure::Tally;
use crate::store::suspensions::Suspension;
use crate::suspensions::names::NameKey;

/// Number of DIDs that are searched at a time.
const MAX_BATCH: i64 = 10_000;
/// Maximum number of DIDs in one list, the latest first. The table `suspensions` has them all.
const MAX_LISTED: i64 = 1_000;

impl Admin {
    /// Suspends a DID, with a reason for other operators. A suspended DID gets the new reason.
    pub(super) async fn suspend(&self, did: &Did, reason: &str) -> Result<Tally, AdminError> {
        Ok(suspended(self.operator.suspend(std::slice::from_ref(did), reason).await?))
    }

    /// Lifts the suspension of a DID, if it is suspended.
    pub(super) async fn release(&self, did: &Did) -> Result<Tally, AdminError> {
        Ok(released(self.operator.lift_suspensions(std::slice::from_ref(did)).await?))
    }

    /// Counts what [`Admin::suspend`] would change.
    pub(super) fn count_suspension() -> Tally {
        suspended(1)
    }

    /// Counts what [`Admin::release`] would change.
    pub(super) async fn count_release(&self, did: &Did) -> Result<Tally, AdminError> {
        Ok(released(self.operator.count_suspensions(std::slice::from_ref(did)).await?))
    }

    /// Returns the suspended DIDs with time and reason, a line each.
    pub(super) async fn suspensions(&self) -> Result<Vec<String>, AdminError> {
        let suspensions = self.operator.suspensions(MAX_LISTED).await?;
        let line = |Suspension { did, since, reason }: &Suspension| {
            format!("{}  {did}  {reason}", since.to_rfc3339_opts(SecondsFormat::Secs, true))
        };
        let mut lines: Vec<String> = suspensions.iter().map(line).collect();
        lines.push(match suspensions.len() as i64 {
            MAX_LISTED => format!("{MAX_LISTED} suspended, and perhaps more: select * from suspensions"),
            listed => format!("{listed} suspended"),
        });
        Ok(lines)
    }

    /// Returns the names of these DIDs in the log, each with its DID.
    pub(super) async fn names(&self, dids: &[Did]) -> Result<Vec<String>, AdminError> {
        let key = self.names_key().await?;
        Ok(dids.iter().map(|did| format!("{}  {did}", key.name(did.as_str()))).collect())
    }

    /// Finds the DIDs with a name in the log among recent callers, whose DID documents are stored.
    pub(super) async fn who(&self, name: &str, found: &mut Vec<String>) -> Result<Tally, AdminError> {
        let key = self.names_key().await?;
        let mut after = String::new();
        loop {
            let mut dids = self.operator.known_dids(&after, MAX_BATCH).await?;
            let Some(last) = dids.last() else { break };
            after.clone_from(last);
            dids.retain(|did| key.name(did) == name);
            found.append(&mut dids);
        }
        Ok(Tally::from([("found".to_owned(), found.len() as i64)]))
    }

    async fn names_key(&self) -> Result<NameKey, AdminError> {
        self.operator.names_key().await?.map(NameKey).ok_or(AdminError::NoNamesKey)
    }
}

fn suspended(dids: usize) -> Tally {
    Tally::from([("suspended".to_owned(), dids as i64)])
}

fn released(dids: usize) -> Tally {
    Tally::from([("released".to_owned(), dids as i64)])
}
