//! publishKeyPackage: a person stores a key package for others to claim.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::hex;
use crate::ids::Did;
use crate::store::key_packages::{self, KnownKeyPackage, NewKeyPackage};
use crate::store::{Abort, Queries, Transaction, Tx};

use super::{Idempotency, Replayable};

/// Most packages of one owner that can be claimed.
pub const MAX_AVAILABLE: i64 = 100;

/// A key package to store.
#[derive(Debug)]
pub struct PublishKeyPackage {
    pub owner: Did,
    /// The package, or why it is not acceptable now. A package can become unacceptable by time alone, so it is refused only if an equal
    /// request did not succeed before.
    pub package: Result<NewKeyPackage, Error>,
    pub now: DateTime<Utc>,
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
        // The count below holds until this commits.
        key_packages::lock_owner(tx, &self.owner).await?;
        if let Some(earlier) = self.idempotency.replay(tx).await? {
            return Ok(earlier);
        }
        let package = self.package.as_ref().map_err(Error::clone)?;
        let published = match key_packages::find_seen(tx, package).await? {
            Some(seen) => own(package, seen)?,
            None if key_packages::count(tx, &package.owner, self.now).await? >= MAX_AVAILABLE => {
                let message =
                    format!("you have {MAX_AVAILABLE} unused key packages here; publish more when some are taken");
                return Err(Code::TooManyKeyPackages.because(message).into());
            }
            None if key_packages::insert(tx, package).await? => {
                Published { hash: hex::encode(&package.hash), replayed: false }
            }
            // Another request published it in between.
            None => match key_packages::find_seen(tx, package).await? {
                Some(seen) => own(package, seen)?,
                None => return Err(Error::internal("a key package is neither new nor seen").into()),
            },
        };
        self.idempotency.record(tx, &published).await?;
        Ok(published)
    }
}

impl Replayable for PublishKeyPackage {
    type Output = Published;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Published>, Abort> {
        if let Some(earlier) = self.idempotency.replay(db).await? {
            return Ok(Some(earlier));
        }
        let package = self.package.as_ref().map_err(Error::clone)?;
        let seen = key_packages::find_seen(db, package).await?;
        Ok(seen.map(|seen| own(package, seen)).transpose()?)
    }

    fn is_new(published: &Published) -> bool {
        !published.replayed
    }
}

/// Returns a package that was published before, if it belongs to its publisher.
fn own(package: &NewKeyPackage, seen: KnownKeyPackage) -> Result<Published, Error> {
    match seen.owner == package.owner.as_str() {
        true => Ok(Published { hash: hex::encode(&seen.hash), replayed: true }),
        false => Err(Code::InvalidKeyPackage.because("this key package belongs to another DID")),
    }
}
