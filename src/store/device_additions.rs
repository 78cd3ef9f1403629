//! Additions of devices: what members are asked to add, and which conversations a device should be in. A commit that uses a key package of
//! the device, or its own external commit, completes an addition, or a GroupInfo that shows the device; no request does.

use chrono::{DateTime, Utc};

use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Tx, devices};
use crate::error::Error;
use crate::ids::{ConvoId, Did};

query! {
    HOLD = "device_additions/hold" (TEXT);
    FIND = "device_additions/find" (TEXT, TEXT, FLOAT8);
    CLAIM = "device_additions/claim" (TEXT, TEXT, FLOAT8);
    COMPLETE = "device_additions/complete" (TEXT, INT8);
    PENDING = "device_additions/pending" (TEXT, TEXT_ARRAY, INT8);
    EXPECTED = "device_additions/expected" (TEXT, TEXT, TEXT, INT8);
}

/// Time for which only the owner's own devices may claim an addition, in seconds.
const OWN_DEVICES_FIRST_SECONDS: f64 = 5.0;
/// Time for which a claimed addition is kept for its claimer, in seconds.
const CLAIM_SECONDS: f64 = 60.0;

/// An addition as a member of its conversation sees it.
pub struct Addition {
    pub convo_id: String,
    pub owner: String,
    pub device_id: String,
    pub signature_key: Vec<u8>,
    pub cipher_suite: String,
    /// The device has entered the group since.
    pub completed: bool,
    pub claimed_by: Option<String>,
    /// For now it is left to the owner's own devices.
    pub early: bool,
}

/// Locks an addition.
pub(crate) async fn hold(tx: &Tx, id: &str) -> Result<(), Abort> {
    tx.rows(&HOLD, &[&id]).await?;
    Ok(())
}

/// Returns an addition, if the caller is in the group of its conversation.
pub(crate) async fn find(db: &impl Queries, id: &str, caller: &Did) -> Result<Option<Addition>, Abort> {
    let row = db.find(&FIND, &[&id, &caller.as_str(), &OWN_DEVICES_FIRST_SECONDS]).await?;
    Ok(row.map(|row| Addition {
        convo_id: row.get("convo_id"),
        owner: row.get("owner_did"),
        device_id: row.get("device_id"),
        signature_key: row.get("signature_key"),
        cipher_suite: row.get("cipher_suite"),
        completed: row.get("completed"),
        claimed_by: row.get("claimed_by"),
        early: row.get("early"),
    }))
}

/// Keeps an addition for a member. It must be held.
pub(crate) async fn claim(tx: &Tx, id: &str, caller: &Did) -> Result<(), Abort> {
    tx.rows(&CLAIM, &[&id, &caller.as_str(), &CLAIM_SECONDS]).await?;
    Ok(())
}

/// Notes that the device is in the group, as the GroupInfo of this epoch shows, if it is the present one. The addition must be held.
pub(crate) async fn complete(tx: &Tx, id: &str, epoch: i64) -> Result<(), Abort> {
    tx.rows(&COMPLETE, &[&id, &epoch]).await?;
    Ok(())
}

/// A device that members may add to a conversation.
pub struct PendingAddition {
    pub id: String,
    pub convo_id: String,
    pub owner: String,
    pub device_id: String,
    /// `None`: the caller is not its owner.
    pub name: Option<String>,
    pub claimed_by: Option<String>,
    pub created_at: DateTime<Utc>,
}

/// A conversation of a person, and whether a device is in its group.
pub struct Expected {
    pub convo_id: String,
    pub name: String,
    pub member_count: i64,
    pub updated_at: DateTime<Utc>,
    /// False: the person is on the roster alone.
    pub in_group: bool,
    /// `None`: not known.
    pub device_in_group: Option<bool>,
}

impl Reader {
    /// Returns devices that members may add, in these conversations of the caller or in all.
    pub async fn pending_additions(
        &self,
        caller: &Did,
        convos: &[ConvoId],
        limit: i64,
    ) -> Result<Vec<PendingAddition>, Error> {
        let convos: Vec<&str> = convos.iter().map(ConvoId::as_str).collect();
        let rows = self.rows(&PENDING, &[&caller.as_str(), &convos, &limit]).await?;
        let additions = rows.iter().map(|row| PendingAddition {
            id: row.get("addition_id"),
            convo_id: row.get("convo_id"),
            owner: row.get("owner_did"),
            device_id: row.get("device_id"),
            name: row.get("name"),
            claimed_by: row.get("claimed_by"),
            created_at: row.get("created_at"),
        });
        Ok(additions.collect())
    }

    /// Returns the conversations of a person before one of them, newest first. Errors: `DeviceNotFound`.
    pub async fn expected_convos(
        &self,
        owner: &Did,
        device_id: Option<&str>,
        before: Option<&str>,
        limit: i64,
    ) -> Result<Vec<Expected>, Error> {
        if let Some(device_id) = device_id {
            devices::must_exist(self, owner, device_id).await?;
        }
        let rows = self.rows(&EXPECTED, &[&owner.as_str(), &device_id, &before, &limit]).await?;
        let convos = rows.iter().map(|row| Expected {
            convo_id: row.get("convo_id"),
            name: row.get("name"),
            member_count: row.get("member_count"),
            updated_at: row.get("updated_at"),
            in_group: row.get("in_group"),
            device_in_group: row.get("device_in_group"),
        });
        Ok(convos.collect())
    }
}
