//! claimPendingDeviceAddition: a member takes it upon itself to add a device, and claims a key package of that device.

use chrono::{DateTime, Utc};

use crate::ids::Did;
use crate::store::device_additions::{self, Addition};
use crate::store::key_packages::{self, Claim, ClaimSource, Holder, Issued};
use crate::store::{Abort, Transaction, Tx, events};

use super::claim_key_packages::LEASE;

/// A claim of an addition.
#[derive(Debug)]
pub struct ClaimAddition {
    pub addition_id: String,
    pub caller: Did,
    /// Owner of the device, who may be told that its stock is low.
    pub owner: String,
    /// True if only a last-resort package may be issued, because the owner's stock is spared.
    pub spares: bool,
    /// Epoch whose GroupInfo shows the device, so that there is nothing to add.
    pub present_in: Option<i64>,
    pub now: DateTime<Utc>,
}

/// Result of a claim.
pub enum ClaimedAddition {
    /// The caller adds the device with this key package.
    Claimed(Addition, ClaimSource, Box<Issued>),
    /// Another member does, or the owner's devices may do so first.
    Held(Addition),
    /// It is done, or it is not the caller's affair, or the device has no key package.
    Nothing,
}

impl Transaction for ClaimAddition {
    const NAME: &'static str = "claimPendingDeviceAddition";
    type Output = ClaimedAddition;

    fn affected(&self) -> Vec<&str> {
        vec![&self.owner]
    }

    async fn execute(&self, tx: &Tx) -> Result<ClaimedAddition, Abort> {
        // Two concurrent requests of one caller must not claim two packages of one device.
        key_packages::lock_owner(tx, &self.caller).await?;
        // Of members that claim at once, one has the addition and the others wait here, and then find it held.
        device_additions::hold(tx, &self.addition_id).await?;
        let Some(addition) = device_additions::find(tx, &self.addition_id, &self.caller).await? else {
            return Ok(ClaimedAddition::Nothing);
        };
        if addition.completed {
            return Ok(ClaimedAddition::Nothing);
        }
        if let Some(epoch) = self.present_in {
            device_additions::complete(tx, &self.addition_id, epoch).await?;
            return Ok(ClaimedAddition::Nothing);
        }
        if addition.early || addition.claimed_by.as_ref().is_some_and(|did| did != self.caller.as_str()) {
            return Ok(ClaimedAddition::Held(addition));
        }
        let Some((source, package)) = self.package(tx, &addition).await? else {
            return Ok(ClaimedAddition::Nothing);
        };
        device_additions::claim(tx, &self.addition_id, &self.caller).await?;
        Ok(ClaimedAddition::Claimed(addition, source, Box::new(package)))
    }
}

impl ClaimAddition {
    /// Issues a key package of the device to the caller, and tells the owner if few are left. It waits for no package: a commit that holds
    /// one may be waiting for the addition.
    async fn package(&self, tx: &Tx, addition: &Addition) -> Result<Option<(ClaimSource, Issued)>, Abort> {
        let claim = Claim {
            cipher_suite: &addition.cipher_suite,
            caller: &self.caller,
            now: self.now,
            lease_ends: self.now + LEASE,
        };
        let holder = Holder { owner: addition.owner.clone(), device: format!("d{}", addition.device_id) };
        let leased = key_packages::leased(tx, std::slice::from_ref(&holder.owner), &claim).await?;
        if let Some(package) = leased.into_iter().find(|package| package.holder() == holder) {
            return Ok(Some((ClaimSource::Leased, package)));
        }
        let holders = std::slice::from_ref(&holder);
        if !self.spares
            && let Some(package) = key_packages::issue(tx, ClaimSource::SkipLocked, holders, &claim).await?.pop()
        {
            events::key_packages_low(tx, holders, self.now).await?;
            return Ok(Some((ClaimSource::SkipLocked, package)));
        }
        let Some(package) = key_packages::issue(tx, ClaimSource::LastResort, holders, &claim).await?.pop() else {
            return Ok(None);
        };
        events::last_resort_used(tx, &[package.hash.as_slice()], self.now).await?;
        Ok(Some((ClaimSource::LastResort, package)))
    }
}
