//! A caller claims one key package of each person that it wants to add.

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Clock;
use crate::error::Error;
use crate::ids::Did;
use crate::store::key_packages::{self, Claim, ClaimSource, Issued};
use crate::store::{Abort, Store, Transaction, Tx, events};

/// Time within which the same caller gets the same package again.
pub const LEASE: TimeDelta = TimeDelta::minutes(10);

/// Sources that a request searches, in order: first for owners whose stock is spared, then for the others. The last search waits for
/// concurrent claims, since only that proves that an owner has none left.
const SEARCHES: [(bool, &[ClaimSource]); 3] = [
    (true, &[ClaimSource::Leased, ClaimSource::LastResort]),
    (false, &[ClaimSource::Leased, ClaimSource::SkipLocked]),
    (false, &[ClaimSource::Leased, ClaimSource::Wait, ClaimSource::LastResort]),
];

/// Claims one key package of each owner, and returns the owners that have none. `claimed` gets each package once it is committed, also
/// if a later search fails.
pub async fn claim_key_packages(
    store: &Store,
    clock: &Clock,
    caller: &Did,
    owners: Vec<String>,
    is_spared: impl Fn(&str) -> bool,
    cipher_suite: &'static str,
    mut claimed: impl FnMut(ClaimSource, Issued),
) -> Result<Vec<String>, Error> {
    let mut missing = owners;
    for (spared, sources) in SEARCHES {
        let owners: Vec<String> = missing.iter().filter(|owner| is_spared(owner) == spared).cloned().collect();
        if owners.is_empty() {
            continue;
        }
        let claim = ClaimKeyPackages { caller: caller.clone(), owners, cipher_suite, sources, now: clock.now() };
        for (source, package) in store.transact(claim).await? {
            missing.retain(|owner| *owner != package.owner);
            claimed(source, package);
        }
    }
    Ok(missing)
}

/// One search of some sources. The search that waits is a transaction of its own, so it holds no lock that other claims wait for.
#[derive(Debug)]
struct ClaimKeyPackages {
    caller: Did,
    /// In the same order for all callers, which prevents deadlocks.
    owners: Vec<String>,
    cipher_suite: &'static str,
    sources: &'static [ClaimSource],
    now: DateTime<Utc>,
}

impl Transaction for ClaimKeyPackages {
    const NAME: &'static str = "getKeyPackages";
    type Output = Vec<(ClaimSource, Issued)>;

    fn affected(&self) -> Vec<&str> {
        self.owners.iter().map(String::as_str).collect()
    }

    async fn execute(&self, tx: &Tx) -> Result<Vec<(ClaimSource, Issued)>, Abort> {
        // Two concurrent requests of one caller must not claim two packages of one owner.
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
