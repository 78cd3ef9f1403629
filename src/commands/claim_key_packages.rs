//! A caller claims one key package of each device of the people that it wants to add.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::clock::Clock;
use crate::error::{Code, Error};
use crate::ids::Did;
use crate::store::key_packages::{self, Claim, ClaimSource, Holder, Issued};
use crate::store::{Abort, Store, Transaction, Tx, events};

use super::invitation::MAX_KEY_PACKAGES;

/// Time within which the same caller gets the same package again.
pub const LEASE: TimeDelta = TimeDelta::minutes(10);
/// Maximum number of owners in one transaction, which bounds the bytes that it reads.
const MAX_OWNERS: usize = 20;
/// Bytes of key packages after which a request claims no more, so that its reply fits through a PDS.
const MAX_BYTES: usize = 7 * 1024 * 1024;

/// Sources that a request searches after its leases, in order: first for owners whose stock is spared, then for the others. The last
/// search waits for concurrent claims, since only that proves that a device has none left.
const SEARCHES: [(bool, &[ClaimSource]); 3] = [
    (true, &[ClaimSource::LastResort]),
    (false, &[ClaimSource::SkipLocked]),
    (false, &[ClaimSource::Wait, ClaimSource::LastResort]),
];

/// Claims one key package of each device of each owner, and returns the owners that have none. `claimed` gets each package once it is
/// committed, also if a later search fails.
pub async fn claim_key_packages(
    store: &Store,
    clock: &Clock,
    caller: &Did,
    owners: Vec<String>,
    is_spared: impl Fn(&str) -> bool,
    cipher_suite: &'static str,
    mut claimed: impl FnMut(ClaimSource, Issued),
) -> Result<Vec<String>, Error> {
    let (mut missing, mut open, mut seen, mut bytes) = (owners.clone(), owners, HashSet::new(), 0);
    for (spared, sources) in SEARCHES {
        let (owners, rest): (Vec<_>, Vec<_>) = open.into_iter().partition(|owner| is_spared(owner) == spared);
        open = rest;
        for owners in owners.chunks(MAX_OWNERS) {
            let owners = owners.to_vec();
            let claim = ClaimKeyPackages { caller: caller.clone(), owners, cipher_suite, sources, now: clock.now() };
            let Claimed { issued, unserved } = store.transact(claim).await?;
            for (source, package) in issued {
                if seen.insert(package.hash.clone()) {
                    bytes += package.bytes.len();
                    missing.retain(|owner| *owner != package.owner);
                    claimed(source, package);
                }
            }
            open.extend(unserved);
            if bytes > MAX_BYTES {
                return Err(
                    Code::TooManyDids.because("the key packages of these DIDs have more than 7 MiB; name fewer")
                );
            }
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

/// Result of a search.
struct Claimed {
    issued: Vec<(ClaimSource, Issued)>,
    /// Owners with a device that has packages, none of which was issued.
    unserved: BTreeSet<String>,
}

impl Transaction for ClaimKeyPackages {
    const NAME: &'static str = "getKeyPackages";
    type Output = Claimed;

    fn affected(&self) -> Vec<&str> {
        self.owners.iter().map(String::as_str).collect()
    }

    async fn execute(&self, tx: &Tx) -> Result<Claimed, Abort> {
        // Two concurrent requests of one caller must not claim two packages of one device.
        key_packages::lock_owner(tx, &self.caller).await?;
        let Self { caller, cipher_suite, now, .. } = self;
        let claim = Claim { cipher_suite, caller, now: *now, lease_ends: *now + LEASE };
        let leased = key_packages::leased(tx, &self.owners, &claim).await?;
        let mut wanted = key_packages::holders(tx, &self.owners, &claim, MAX_KEY_PACKAGES as i64).await?;
        let mut issued: Vec<_> = leased.into_iter().map(|package| (ClaimSource::Leased, package)).collect();
        retain_open(&mut wanted, &issued);
        for source in self.sources {
            if !wanted.is_empty() {
                let found = key_packages::issue(tx, *source, &wanted, &claim).await?;
                issued.extend(found.into_iter().map(|package| (*source, package)));
                retain_open(&mut wanted, &issued);
            }
        }
        let is_taken =
            |(source, _): &&(ClaimSource, Issued)| matches!(source, ClaimSource::SkipLocked | ClaimSource::Wait);
        let taken: Vec<Holder> = issued.iter().filter(is_taken).map(|(_, package)| package.holder()).collect();
        events::key_packages_low(tx, &taken, self.now).await?;
        let last = issued.iter().filter(|(source, _)| *source == ClaimSource::LastResort);
        let hashes: Vec<&[u8]> = last.map(|(_, package)| package.hash.as_slice()).collect();
        events::last_resort_used(tx, &hashes, self.now).await?;
        Ok(Claimed { issued, unserved: wanted.into_iter().map(|holder| holder.owner).collect() })
    }
}

/// Keeps the devices of which no package was issued, as many as a commit may add.
fn retain_open(wanted: &mut Vec<Holder>, issued: &[(ClaimSource, Issued)]) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    issued.iter().for_each(|(_, package)| *counts.entry(package.owner.clone()).or_default() += 1);
    wanted.retain(|holder| {
        let count = counts.entry(holder.owner.clone()).or_default();
        let is_open = *count < MAX_KEY_PACKAGES && issued.iter().all(|(_, package)| package.holder() != *holder);
        *count += usize::from(is_open);
        is_open
    });
    wanted.sort();
}
