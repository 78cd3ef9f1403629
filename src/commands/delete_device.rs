//! deleteDevice: a person deletes a device of its own. Its leaves stay in the groups until members commit their removal.

use serde::{Deserialize, Serialize};

use crate::ids::Did;
use crate::store::{Abort, Transaction, Tx, devices, key_packages};

use super::Idempotency;

/// A device to delete.
#[derive(Debug)]
pub struct DeleteDevice {
    pub owner: Did,
    pub device_id: String,
    pub idempotency: Idempotency,
}

/// A device that was deleted, now or by an earlier request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedDevice {
    /// Number of its key packages that could still be used.
    pub key_packages: i64,
}

impl Transaction for DeleteDevice {
    const NAME: &'static str = "deleteDevice";
    type Output = DeletedDevice;

    async fn execute(&self, tx: &Tx) -> Result<DeletedDevice, Abort> {
        // No other request registers the device or publishes its packages meanwhile.
        key_packages::lock_owner(tx, &self.owner).await?;
        if let Some(earlier) = self.idempotency.replay(tx).await? {
            return Ok(earlier);
        }
        let deleted = DeletedDevice { key_packages: devices::delete(tx, &self.owner, &self.device_id).await? };
        self.idempotency.record(tx, &deleted).await?;
        Ok(deleted)
    }
}
