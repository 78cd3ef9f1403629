//! registerDevice: a person registers a device with its key packages, or registers a known one again. That keeps its id and replaces its
//! packages that were never issued.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::store::devices::{self, NewDevice};
use crate::store::key_packages::{self, NewKeyPackage};
use crate::store::{Abort, Queries, Transaction, Tx};

use super::publish_key_packages::store_each;
use super::{Idempotency, Replayable};

/// A device to register, and the key packages that it has now.
#[derive(Debug)]
pub struct RegisterDevice {
    pub device: NewDevice,
    /// The packages, or why one is not acceptable now, which does not matter if an equal request succeeded before.
    pub packages: Result<Vec<NewKeyPackage>, Error>,
    /// Maximum number of devices of the owner.
    pub max_devices: i64,
    pub now: DateTime<Utc>,
    pub idempotency: Idempotency,
}

/// A device that was registered, now or by an earlier request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registered {
    pub device_id: String,
    /// An earlier request with this idempotency key registered it.
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

impl Transaction for RegisterDevice {
    const NAME: &'static str = "registerDevice";
    type Output = Registered;

    async fn execute(&self, tx: &Tx) -> Result<Registered, Abort> {
        // Registrations of one person run one at a time, and no other request publishes its packages meanwhile.
        key_packages::lock_owner(tx, &self.device.owner).await?;
        if let Some(earlier) = self.idempotency.replay(tx).await? {
            return Ok(earlier);
        }
        let packages: Vec<_> = self.packages.as_ref().map_err(Error::clone)?.iter().collect();
        let device_id = self.device(tx).await?;
        let owner = &self.device.owner;
        key_packages::adopt(tx, owner, &device_id, &self.device.signature_key).await?;
        let known = key_packages::find_seen(tx, &packages).await?.into_iter().flatten();
        let kept: Vec<Vec<u8>> = known.map(|known| known.hash).collect();
        key_packages::replace(tx, owner, &device_id, &kept).await?;
        for (index, stored) in store_each(tx, owner, &packages, self.now).await?.into_iter().enumerate() {
            stored.map_err(|refusal| refuse_package(index, refusal))?;
        }
        let registered = Registered { device_id, replayed: false };
        self.idempotency.record(tx, &registered).await?;
        Ok(registered)
    }
}

impl RegisterDevice {
    /// Registers the device, and returns its id.
    async fn device(&self, tx: &Tx) -> Result<String, Abort> {
        let known = devices::find(tx, &self.device).await?;
        let by_uuid = known.iter().find(|device| device.same_uuid);
        let by_key = known.iter().find(|device| device.same_key);
        if let (Some(one), Some(other)) = (by_uuid, by_key)
            && one.id != other.id
        {
            let message = "signaturePublicKey belongs to another of your devices; delete that one, or make a new key";
            return Err(Code::DeviceAlreadyRegistered.because(message).into());
        }
        if let Some(device) = by_uuid.or(by_key) {
            devices::refresh(tx, &device.id, &self.device).await?;
            return Ok(device.id.clone());
        }
        if devices::count(tx, &self.device.owner).await? >= self.max_devices {
            let message = format!("you have {} devices; delete one that you no longer use", self.max_devices);
            return Err(Code::TooManyDevices.because(message).into());
        }
        devices::insert(tx, &self.device).await?;
        Ok(self.device.id.clone())
    }
}

/// Names the key package that an error is about.
pub fn refuse_package(index: usize, mut refusal: Error) -> Error {
    refusal.message = format!("keyPackages[{index}]: {}", refusal.message);
    refusal
}

impl Replayable for RegisterDevice {
    type Output = Registered;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Registered>, Abort> {
        self.idempotency.replay(db).await
    }

    fn is_new(registered: &Registered) -> bool {
        !registered.replayed
    }
}
