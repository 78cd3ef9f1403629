//! Devices of a person, registered under a signature key.

use chrono::{DateTime, Utc};

use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Tx};
use crate::error::{Code, Error};
use crate::ids::Did;

query! {
    FIND = "devices/find" (TEXT, TEXT, BYTEA);
    COUNT = "devices/count" (TEXT);
    INSERT = "devices/insert" (TEXT, TEXT, TEXT, TEXT, BYTEA);
    REFRESH = "devices/refresh" (TEXT, TEXT, TEXT, TEXT, BYTEA);
    LIST = "devices/list" (TEXT, TIMESTAMPTZ);
    EXISTS = "devices/exists" (TEXT, TEXT);
    MARK_DELETED = "devices/mark_deleted" (TEXT, TEXT);
    WITHDRAW_PACKAGES = "devices/withdraw_packages" (TEXT, TEXT);
}

/// A device as its client describes it.
#[derive(Debug, Clone)]
pub struct NewDevice {
    pub owner: Did,
    /// ULID that it gets if it is new.
    pub id: String,
    /// The client's own name for it, which outlives a reinstallation.
    pub uuid: Option<String>,
    pub name: String,
    pub signature_key: Vec<u8>,
}

/// A registered device that has the same UUID, the same signature key, or both.
pub(crate) struct KnownDevice {
    pub id: String,
    pub same_uuid: bool,
    pub same_key: bool,
}

/// A registered device as its owner sees it.
#[derive(Debug)]
pub struct Device {
    pub id: String,
    pub name: String,
    pub uuid: Option<String>,
    pub registered_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    /// Number of its key packages that can be issued.
    pub key_packages: i64,
    /// Those of them that are issued once.
    pub one_time: i64,
}

/// Returns the devices of the owner that have this UUID or this signature key.
pub(crate) async fn find(tx: &Tx, new: &NewDevice) -> Result<Vec<KnownDevice>, Abort> {
    let rows = tx.rows(&FIND, &[&new.owner.as_str(), &new.uuid, &new.signature_key]).await?;
    let known = rows.iter().map(|row| KnownDevice {
        id: row.get("device_id"),
        same_uuid: row.get("same_uuid"),
        same_key: row.get("same_key"),
    });
    Ok(known.collect())
}

/// Returns the number of a person's devices.
pub(crate) async fn count(tx: &Tx, owner: &Did) -> Result<i64, Abort> {
    let rows = tx.rows(&COUNT, &[&owner.as_str()]).await?;
    Ok(rows.first().expect("an aggregate without GROUP BY returns one row").get("registered"))
}

/// Registers a device. The owner must be locked.
pub(crate) async fn insert(tx: &Tx, new: &NewDevice) -> Result<(), Abort> {
    tx.rows(&INSERT, &[&new.owner.as_str(), &new.id, &new.uuid, &new.name, &new.signature_key]).await?;
    Ok(())
}

/// Registers a known device again, under the id that it has. The owner must be locked.
pub(crate) async fn refresh(tx: &Tx, id: &str, new: &NewDevice) -> Result<(), Abort> {
    tx.rows(&REFRESH, &[&new.owner.as_str(), &id, &new.uuid, &new.name, &new.signature_key]).await?;
    Ok(())
}

/// Deletes a device, ends the use of its key packages, and returns the number of those. Members are told by [`super::device_announcements`],
/// which withdraws its Welcomes too. Errors: `DeviceNotFound`. The owner must be locked.
pub(crate) async fn delete(tx: &Tx, owner: &Did, device_id: &str) -> Result<i64, Abort> {
    tx.find(&MARK_DELETED, &[&owner.as_str(), &device_id]).await?.ok_or_else(not_found)?;
    let row = tx.find(&WITHDRAW_PACKAGES, &[&owner.as_str(), &device_id]).await?;
    Ok(row.map_or(0, |row| row.get("key_packages")))
}

/// Checks that a person has this device. Errors: `DeviceNotFound`.
pub(super) async fn must_exist(db: &impl Queries, owner: &Did, device_id: &str) -> Result<(), Abort> {
    db.find(&EXISTS, &[&owner.as_str(), &device_id]).await?.ok_or_else(not_found)?;
    Ok(())
}

/// The error for a device that a person does not have.
pub(crate) fn not_found() -> Error {
    Code::DeviceNotFound.because("you have no such device")
}

impl Reader {
    /// Returns the devices of a person, the one seen last first.
    pub async fn devices(&self, owner: &Did, now: DateTime<Utc>) -> Result<Vec<Device>, Error> {
        let rows = self.rows(&LIST, &[&owner.as_str(), &now]).await?;
        let devices = rows.iter().map(|row| Device {
            id: row.get("device_id"),
            name: row.get("name"),
            uuid: row.get("device_uuid"),
            registered_at: row.get("registered_at"),
            last_seen_at: row.get("last_seen_at"),
            key_packages: row.get("key_packages"),
            one_time: row.get("one_time"),
        });
        Ok(devices.collect())
    }
}
