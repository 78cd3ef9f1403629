//! Rows of `event_stream`.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use super::id;
use crate::error::Error;
use crate::ids::{ConvoId, Did};

/// Most event rows, and bytes of what they say, that are read at a time.
pub const PAGE_ROWS: i64 = 1_000;
pub const PAGE_ROW_BYTES: i64 = 1024 * 1024;

/// Some rows in their order.
#[derive(Default)]
pub struct RowPage {
    pub rows: Vec<EventRow>,
    /// There may be more after this id.
    pub more_after: Option<i64>,
}

impl RowPage {
    /// A newer replica may write what this one does not know; the log has it, and the others go on.
    pub(super) fn of(rows: &[Row]) -> Self {
        let bytes: usize = rows.iter().map(|row| row.get::<_, &str>("payload").len()).sum();
        // The one that did not fit may have been as large as any.
        let full = rows.len() as i64 >= PAGE_ROWS || bytes as i64 >= PAGE_ROW_BYTES / 2;
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
    /// The transaction that wrote it.
    pub tx: i64,
    /// How many bytes it says that in.
    pub size: usize,
    pub emitted_at: DateTime<Utc>,
}

impl EventRow {
    /// A name for what the row tells of somebody: the same whenever and by whatever replica it is told. It is a hash, since the row's
    /// number would say how much is written here.
    pub fn name(&self, did: &Did) -> String {
        let convo = self.convo.as_ref().map_or("", ConvoId::as_str);
        let told = format!("{} {} {convo} {did}", self.id, self.emitted_at.timestamp_micros());
        Sha256::digest(told)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a row says.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event_type", content = "payload", rename_all = "camelCase")]
pub enum EventPayload {
    /// These were added, and see what comes after `seq`.
    Joined { dids: Vec<Did>, actor: Did, epoch: i64, seq: i64, welcome: bool },
    /// For those who stay: somebody left or was removed.
    Left { did: Did, actor: Did, epoch: i64, seq: i64 },
    /// The same for who is gone.
    Removed { did: Did, actor: Did, epoch: i64, seq: i64 },
    /// The recipient has read up to here on another device.
    #[serde(rename_all = "camelCase")]
    Read { seq: i64, message_id: Option<String>, read_at: DateTime<Utc> },
    /// The recipient has followed up to here on another device.
    #[serde(rename_all = "camelCase")]
    Cursor { last_seen: String },
    /// The recipient has few key packages left.
    KeyPackagesLow { available: i64 },
    /// The recipient's mailbox has proved itself, or is given up.
    Mailbox { state: String, reason: Option<String> },
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
