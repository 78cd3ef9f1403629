//! Somebody leaves a key package for others to take.

use chrono::{DateTime, Utc};

use crate::error::Code;
use crate::store::key_packages::{self, NewKeyPackage};
use crate::store::{Abort, Errand, Tx};

use super::Once;

/// Most packages of one owner that may wait to be taken.
pub const MAX_AVAILABLE: i64 = 100;

/// See the module.
#[derive(Debug)]
pub struct PublishKeyPackage {
    pub package: NewKeyPackage,
    pub now: DateTime<Utc>,
    pub once: Once,
}

impl Errand for PublishKeyPackage {
    const NAME: &'static str = "publishKeyPackage";
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let NewKeyPackage { owner, hash, .. } = &self.package;
        // The count below holds until this commits.
        key_packages::lock_owner(tx, owner).await?;
        if self.once.earlier::<()>(tx).await?.is_some() {
            return Ok(());
        }
        match key_packages::find_owner(tx, hash).await? {
            Some(found) if found == owner.as_str() => {}
            Some(_) => return Err(Code::InvalidKeyPackage.because("this key package belongs to somebody else").into()),
            None if key_packages::count(tx, owner, self.now).await? >= MAX_AVAILABLE => {
                let message =
                    format!("you have {MAX_AVAILABLE} unused key packages here; publish more when some are taken");
                return Err(Code::TooManyKeyPackages.because(message).into());
            }
            None => key_packages::insert(tx, &self.package).await?,
        }
        self.once.remember(tx, &()).await
    }
}
