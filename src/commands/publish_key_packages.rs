//! publishKeyPackages: a person stores many key packages in one transaction. A package that cannot be accepted does not prevent the
//! others.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::hex;
use crate::ids::Did;
use crate::store::key_packages::{self, KnownKeyPackage, NewKeyPackage};
use crate::store::{Abort, Queries, Transaction, Tx};

use super::publish_key_package::{Offer, Published};
use super::{Idempotency, Replayable};

/// Maximum number of one-time packages of one device that can be claimed, and of all clients of a person that are not registered as devices.
pub const MAX_AVAILABLE: i64 = 100;

/// Key packages to store.
#[derive(Debug)]
pub struct PublishKeyPackages {
    pub owner: Did,
    pub offers: Vec<Offer>,
    pub now: DateTime<Utc>,
    pub idempotency: Idempotency,
}

/// Result of a list of key packages: the items that were refused. All others are published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishedList {
    pub errors: Vec<ItemRefusal>,
    /// No item was published by this request.
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

/// Error of one item.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ItemRefusal {
    /// Place of the item in the request, from 0.
    pub index: usize,
    /// Name of the error.
    pub error: String,
    pub message: String,
}

impl PublishedList {
    fn of(outcomes: &[Result<Published, Error>]) -> Self {
        let mut errors = Vec::new();
        for (index, outcome) in outcomes.iter().enumerate() {
            if let Err(error) = outcome {
                let (error, message) = (error.code.name().to_owned(), error.message.clone());
                errors.push(ItemRefusal { index, error, message });
            }
        }
        Self { errors, replayed: !outcomes.iter().flatten().any(|published| !published.replayed) }
    }
}

impl Transaction for PublishKeyPackages {
    const NAME: &'static str = "publishKeyPackages";
    type Output = PublishedList;

    async fn execute(&self, tx: &Tx) -> Result<PublishedList, Abort> {
        // The count of the stock holds until this commits.
        key_packages::lock_owner(tx, &self.owner).await?;
        if let Some(earlier) = self.idempotency.replay(tx).await? {
            return Ok(earlier);
        }
        let outcomes = self.publish(tx).await?;
        let done = PublishedList::of(&outcomes);
        // A failure is not kept: the same request may succeed later.
        if done.errors.len() < self.offers.len() {
            self.idempotency.record(tx, &done).await?;
        }
        Ok(done)
    }
}

impl PublishKeyPackages {
    /// Publishes each item as publishKeyPackage would.
    async fn publish(&self, tx: &Tx) -> Result<Vec<Result<Published, Error>>, Abort> {
        let mut outcomes = Vec::with_capacity(self.offers.len());
        for Offer { package, idempotency } in &self.offers {
            outcomes.push(match idempotency.replay(tx).await {
                Ok(Some(earlier)) => Some(Ok(earlier)),
                Ok(None) => package.as_ref().err().cloned().map(Err),
                Err(Abort::Refused(refusal)) if refusal.code == Code::IdempotencyConflict => Some(Err(refusal)),
                Err(abort) => return Err(abort),
            });
        }
        let open: Vec<usize> = (0..outcomes.len()).filter(|at| outcomes[*at].is_none()).collect();
        let packages: Vec<_> = open.iter().filter_map(|at| self.offers[*at].package.as_ref().ok()).collect();
        let stored = store_each(tx, &self.owner, &packages, self.now).await?;
        for (at, outcome) in open.into_iter().zip(stored) {
            if let Ok(published) = &outcome {
                self.offers[at].idempotency.record(tx, published).await?;
            }
            outcomes[at] = Some(outcome);
        }
        Ok(outcomes.into_iter().flatten().collect())
    }
}

impl Replayable for PublishKeyPackages {
    type Output = PublishedList;

    async fn replay(&self, db: &impl Queries) -> Result<Option<PublishedList>, Abort> {
        if let Some(earlier) = self.idempotency.replay(db).await? {
            return Ok(Some(earlier));
        }
        let packages: Vec<_> = self.offers.iter().filter_map(|offer| offer.package.as_ref().ok()).collect();
        let seen = key_packages::find_seen(db, &packages).await?;
        let all = packages.len() == self.offers.len() && seen.iter().all(Option::is_some);
        let outcomes: Vec<_> = seen.into_iter().flatten().map(|seen| own(&self.owner, seen)).collect();
        Ok(all.then(|| PublishedList::of(&outcomes)))
    }

    fn is_new(done: &PublishedList) -> bool {
        !done.replayed
    }
}

/// Stores packages of one owner, each for itself. The owner must be locked, so that the count of its stock holds.
pub(super) async fn store_each(
    tx: &Tx,
    owner: &Did,
    packages: &[&NewKeyPackage],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Published, Error>>, Abort> {
    let seen = key_packages::find_seen(tx, packages).await?;
    let mut outcomes: Vec<_> = seen.into_iter().map(|seen| seen.map(|seen| own(owner, seen))).collect();
    if outcomes.iter().all(Option::is_some) {
        return Ok(outcomes.into_iter().flatten().collect());
    }
    let stocks = key_packages::count(tx, owner, packages, now).await?;
    let mut room: HashMap<&str, i64> =
        stocks.values().map(|stock| (&*stock.device, MAX_AVAILABLE - stock.available)).collect();
    let (mut new, mut init_keys) = (Vec::new(), HashSet::new());
    for (package, outcome) in packages.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()) {
        if init_keys.contains(&package.init_key_hash) {
            continue;
        }
        let stock = stocks.get(&package.signature_key);
        if package.device_id.as_ref().is_some_and(|named| stock.is_none_or(|stock| stock.device != *named)) {
            *outcome = Some(Err(Code::DeviceNotFound
                .because("deviceId is not a device of yours with the signature key of this package")));
            continue;
        }
        match stock.and_then(|stock| room.get_mut(&*stock.device)) {
            // A last-resort package replaces another, so it takes no room.
            Some(room) if package.last_resort || *room > 0 => {
                *room -= i64::from(!package.last_resort);
                init_keys.insert(package.init_key_hash);
                new.push(*package);
            }
            _ => *outcome = Some(Err(too_many())),
        }
    }
    let mut inserted = key_packages::insert(tx, owner, &new).await?;
    let mut newest = HashMap::new();
    for package in new.iter().filter(|package| package.last_resort && inserted.contains(package.hash.as_slice())) {
        let device = stocks.get(&package.signature_key).map(|stock| &*stock.device);
        newest.insert((device, &*package.cipher_suite), &package.hash);
    }
    key_packages::retire_replaced(tx, owner, &Vec::from_iter(newest.into_values()), now).await?;
    for (package, outcome) in packages.iter().zip(&mut outcomes).filter(|(_, outcome)| outcome.is_none()) {
        if inserted.remove(package.hash.as_slice()) {
            *outcome = Some(Ok(Published { hash: hex::encode(&package.hash), replayed: false }));
        }
    }
    if outcomes.iter().any(Option::is_none) {
        // The list has a package twice, or another request published it in between.
        for (seen, outcome) in key_packages::find_seen(tx, packages).await?.into_iter().zip(&mut outcomes) {
            let seen = seen.ok_or_else(|| Error::internal("a key package is neither new nor seen"));
            if outcome.is_none() {
                *outcome = Some(own(owner, seen?));
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

fn too_many() -> Error {
    let message = format!("this device has {MAX_AVAILABLE} unused key packages here; publish more when some are taken");
    Code::TooManyKeyPackages.because(message)
}

/// Returns a package that was published before, if it belongs to its publisher.
pub(super) fn own(owner: &Did, seen: KnownKeyPackage) -> Result<Published, Error> {
    match seen.owner == owner.as_str() {
        true => Ok(Published { hash: hex::encode(&seen.hash), replayed: true }),
        false => Err(Code::InvalidKeyPackage.because("this key package belongs to another DID")),
    }
}
