//! Rows of `event_stream`.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use super::id;
use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::wire::ConvoState;

/// Maximum number of event rows, and of their bytes, in one read.
pub const MAX_PAGE_ROWS: i64 = 1_000;
pub const MAX_PAGE_ROW_BYTES: i64 = 1024 * 1024;

/// A page of rows in order.
#[derive(Default)]
pub struct RowPage {
    pub rows: Vec<EventRow>,
    /// There may be more rows after this id.
    pub more_after: Option<i64>,
}

impl RowPage {
    /// A newer replica may write rows that this one does not know. They are skipped; the log has the change.
    pub(super) fn of(rows: &[Row]) -> Self {
        let bytes: usize = rows.iter().map(|row| row.get::<_, &str>("payload").len()).sum();
        // The next one may be as large as any.
        let full = rows.len() as i64 >= MAX_PAGE_ROWS || bytes as i64 >= MAX_PAGE_ROW_BYTES / 2;
        let more_after = rows.last().filter(|_| full).map(|row| row.get("id"));
        Self { rows: rows.iter().filter_map(|row| event_row(row).ok()).collect(), more_after }
    }
}

/// A row of `event_stream`.
#[derive(Debug, Clone)]
pub struct EventRow {
    pub id: i64,
    pub convo: Option<ConvoId>,
    pub recipient: Option<Did>,
    pub what: EventPayload,
    /// Transaction that wrote the row.
    pub tx: i64,
    /// Size of the payload in bytes.
    pub size: usize,
    pub emitted_at: DateTime<Utc>,
}

impl EventRow {
    /// Returns an id for this row as told to one DID: the same on every replica and at every time. It is a hash,
    /// because the row's number would reveal how much is written here.
    pub fn name(&self, did: &Did) -> String {
        let convo = self.convo.as_ref().map_or("", ConvoId::as_str);
        let told = format!("{} {} {convo} {did}", self.id, self.emitted_at.timestamp_micros());
        Sha256::digest(told)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Payload of a row. Changes of membership that earlier builds wrote have no generation.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event_type", content = "payload", rename_all = "camelCase")]
pub enum EventPayload {
    /// DIDs were added, and see everything after `seq`.
    Joined { dids: Vec<Did>, actor: Did, generation: Option<i64>, epoch: i64, seq: i64, welcome: bool },
    /// For the remaining members: a member left or was removed.
    Left { did: Did, actor: Did, generation: Option<i64>, epoch: i64, seq: i64 },
    /// For the former member: it left or was removed.
    Removed { did: Did, actor: Did, generation: Option<i64>, epoch: i64, seq: i64 },
    /// The recipient has read up to this entry on another device.
    #[serde(rename_all = "camelCase")]
    Read { seq: i64, message_id: Option<String>, read_at: DateTime<Utc> },
    /// The recipient has received events up to this cursor on another device.
    #[serde(rename_all = "camelCase")]
    Cursor { last_seen: String },
    /// A device of a member is to be added to the group.
    NewDevice {
        did: Did,
        #[serde(rename = "deviceId")]
        device_id: String,
        #[serde(rename = "additionId")]
        addition_id: String,
    },
    /// A device of a member was deleted, and its leaf is to be removed from the group.
    DeviceDeleted {
        did: Did,
        #[serde(rename = "deviceId")]
        device_id: String,
    },
    /// The recipient, or one of its registered devices, has few key packages left.
    #[serde(rename_all = "camelCase")]
    KeyPackagesLow { available: i64, device_id: Option<String> },
    /// For all members: the conversation has another group.
    #[serde(rename_all = "camelCase")]
    Reset { generation: i64, group_id: String, epoch: i64, seq: i64, actor: Did, welcomed: Vec<Did> },
    /// For all members: the commit of an epoch may have led them apart.
    Fork { generation: i64, epoch: i64 },
    /// For all members: the conversation is wedged, or no longer is.
    Wedged { generation: i64, epoch: i64, state: ConvoState },
    /// For all members: one of them asks to be added to the group again.
    #[serde(rename_all = "camelCase")]
    ReadditionRequested {
        user_did: Did,
        request_id: String,
        requested_at: DateTime<Utc>,
        device_id: Option<String>,
        key_package: Option<String>,
        key_package_hash: Option<String>,
        reason: Option<String>,
    },
    /// A last-resort package of the recipient was issued.
    #[serde(rename_all = "camelCase")]
    LastResortUsed { key_package_hash: String, cipher_suite: String },
    /// For all members: another one cannot open its Welcome.
    #[serde(rename_all = "camelCase")]
    WelcomeRejected { did: Did, epoch: i64, key_package_hash: Option<String> },
    /// The recipient's mailbox was verified, refused or suspended.
    Mailbox { state: String, reason: Option<String> },
    /// A member needs the GroupInfo of this epoch.
    #[serde(rename_all = "camelCase")]
    GroupInfoRequested { did: Did, epoch: i64, requested_at: DateTime<Utc> },
}

pub(super) fn event_row(row: &Row) -> Result<EventRow, Error> {
    let payload: &str = row.get("payload");
    let tagged = format!(r#"{{"event_type":"{}","payload":{payload}}}"#, row.get::<_, &str>("event_type"));
    Ok(EventRow {
        id: row.get("id"),
        convo: row.get::<_, Option<&str>>("convo_id").map(id).transpose()?,
        recipient: row.get::<_, Option<&str>>("recipient_did").map(id).transpose()?,
        what: serde_json::from_str(&tagged).map_err(Error::internal)?,
        tx: row.get("tx"),
        size: payload.len(),
        emitted_at: row.get("emitted_at"),
    })
}
