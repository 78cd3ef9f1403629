//! publishKeyPackage: a person stores a key package for others to claim.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::ids::Did;
use crate::store::key_packages::{self, NewKeyPackage};
use crate::store::{Abort, Queries, Transaction, Tx};

use super::publish_key_packages::{own, store_each};
use super::{Idempotency, Replayable};

/// A key package to store.
#[derive(Debug)]
pub struct PublishKeyPackage {
    pub owner: Did,
    pub offer: Offer,
    pub now: DateTime<Utc>,
}

/// A key package as it was offered, and the key under which it was.
#[derive(Debug)]
pub struct Offer {
    /// The package, or why it is not acceptable now. A package can become unacceptable by time alone, so it is refused only if an equal
    /// request did not succeed before.
    pub package: Result<NewKeyPackage, Error>,
    pub idempotency: Idempotency,
}

/// A key package that was published, now or by an earlier request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Published {
    /// The hash that the package is kept under, in hex: that of the first spelling in which it came.
    pub hash: String,
    /// It was published before, by any request.
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

impl Transaction for PublishKeyPackage {
    const NAME: &'static str = "publishKeyPackage";
    type Output = Published;

    async fn execute(&self, tx: &Tx) -> Result<Published, Abort> {
        // The count of the stock holds until this commits.
        key_packages::lock_owner(tx, &self.owner).await?;
        if let Some(earlier) = self.offer.idempotency.replay(tx).await? {
            return Ok(earlier);
        }
        let package = self.offer.package.as_ref().map_err(Error::clone)?;
        let mut stored = store_each(tx, &self.owner, &[package], self.now).await?;
        let published = stored.pop().expect("each package has an outcome")?;
        self.offer.idempotency.record(tx, &published).await?;
        Ok(published)
    }
}

impl Replayable for PublishKeyPackage {
    type Output = Published;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Published>, Abort> {
        if let Some(earlier) = self.offer.idempotency.replay(db).await? {
            return Ok(Some(earlier));
        }
        let package = self.offer.package.as_ref().map_err(Error::clone)?;
        let seen = key_packages::find_seen(db, &[package]).await?.pop().flatten();
        Ok(seen.map(|seen| own(&self.owner, seen)).transpose()?)
    }

    fn is_new(published: &Published) -> bool {
        !published.replayed
    }
}
