//! Somebody takes one key package of each person that it wants to add.

use chrono::{DateTime, TimeDelta, Utc};

use crate::ids::Did;
use crate::store::key_packages::{self, Claim, ClaimSource, Issued};
use crate::store::{Abort, Transaction, Tx, events};

/// For how long the same caller gets the same package again. After that it is nobody's any more.
pub const LEASE: TimeDelta = TimeDelta::minutes(10);

/// One look at some sources. "None" is only true after a look that waits, and that look is a transaction of its own: while
/// waiting it holds nothing that others wait for.
#[derive(Debug)]
pub struct ClaimKeyPackages {
    pub caller: Did,
    /// In one order for everybody.
    pub owners: Vec<String>,
    pub cipher_suite: &'static str,
    pub sources: &'static [ClaimSource],
    pub now: DateTime<Utc>,
}

impl Transaction for ClaimKeyPackages {
    const NAME: &'static str = "getKeyPackages";
    type Output = Vec<(ClaimSource, Issued)>;

    fn affected(&self) -> Vec<&str> {
        self.owners.iter().map(String::as_str).collect()
    }

    async fn execute(&self, tx: &Tx) -> Result<Vec<(ClaimSource, Issued)>, Abort> {
        // So that two requests of one caller do not take two packages where one would do.
        key_packages::lock_owner(tx, &self.caller).await?;
        let mut wanted = self.owners.clone();
        let mut issued = Vec::new();
        for source in self.sources {
            if wanted.is_empty() {
                break;
            }
            let claim = Claim {
                owners: &wanted,
                cipher_suite: self.cipher_suite,
                caller: &self.caller,
                now: self.now,
                lease_ends: self.now + LEASE,
            };
            let found = key_packages::issue(tx, *source, &claim).await?;
            wanted.retain(|owner| found.iter().all(|package| package.owner != *owner));
            issued.extend(found.into_iter().map(|package| (*source, package)));
        }
        let taken =
            |(source, _): &&(ClaimSource, Issued)| matches!(source, ClaimSource::SkipLocked | ClaimSource::Wait);
        let owners: Vec<&str> = issued.iter().filter(taken).map(|(_, package)| package.owner.as_str()).collect();
        events::key_packages_low(tx, &owners, self.now).await?;
        Ok(issued)
    }
}
