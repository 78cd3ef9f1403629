//! syncKeyPackages: an owner compares its key packages with the stock here, and withdraws some by name.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::ids::Did;
use crate::store::key_packages::{self, NamedKeyPackage};
use crate::store::{Abort, Transaction, Tx};

/// Key packages that a client has, and those that it withdraws, each by its hash or its reference.
#[derive(Debug)]
pub struct SyncKeyPackages {
    pub owner: Did,
    pub local: Vec<Vec<u8>>,
    pub delete: Vec<Vec<u8>>,
    pub now: DateTime<Utc>,
}

/// Difference between a client and the stock after the withdrawal.
#[derive(Debug)]
pub struct KeyPackageDifference {
    /// Hashes of the packages that can be issued.
    pub available: Vec<Vec<u8>>,
    /// Those that the client does not have.
    pub orphaned: Vec<Vec<u8>>,
    /// Names of the client's packages that are not known here, as the client gave them.
    pub missing: Vec<Vec<u8>>,
    /// Number of packages that were withdrawn.
    pub withdrawn: usize,
}

impl Transaction for SyncKeyPackages {
    const NAME: &'static str = "syncKeyPackages";
    type Output = KeyPackageDifference;

    async fn execute(&self, tx: &Tx) -> Result<KeyPackageDifference, Abort> {
        let named = key_packages::find_named(tx, &self.owner, &self.delete).await?;
        let hashes: HashSet<Vec<u8>> = named.into_iter().map(|package| package.hash).collect();
        let withdrawn = key_packages::withdraw(tx, &self.owner, &Vec::from_iter(hashes), self.now).await?;
        let known = key_packages::find_named(tx, &self.owner, &self.local).await?;
        let known: HashSet<Vec<u8>> = known.into_iter().map(|NamedKeyPackage { name, .. }| name).collect();
        let local: HashSet<&[u8]> = self.local.iter().map(Vec::as_slice).collect();
        let (mut available, mut orphaned) = (Vec::new(), Vec::new());
        for package in key_packages::list_available(tx, &self.owner, self.now).await? {
            let names = [Some(package.hash.as_slice()), package.reference.as_deref()];
            if !names.into_iter().flatten().any(|name| local.contains(name)) {
                orphaned.push(package.hash.clone());
            }
            available.push(package.hash);
        }
        let missing = self.local.iter().filter(|name| !known.contains(*name)).cloned().collect();
        Ok(KeyPackageDifference { available, orphaned, missing, withdrawn })
    }
}
