//! Dead envelopes, which operators list and requeue.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::super::query::query;
use super::super::{ConnectError, Operator};

query! {
    LIST = "mailboxes/list_dead" (INT8);
    REQUEUE = "mailboxes/requeue" (TEXT_ARRAY);
}

/// An envelope that is no longer retried.
pub struct DeadEnvelope {
    pub id: String,
    pub created_at: DateTime<Utc>,
    pub convo: String,
    pub seq: i64,
    pub recipient: String,
    pub host: String,
    pub attempts: i32,
    pub last_error: String,
}

impl Operator {
    /// Returns the newest dead envelopes, at most `limit`.
    pub async fn dead_envelopes(&self, limit: i64) -> Result<Vec<DeadEnvelope>, ConnectError> {
        let rows = self.rows(&LIST, &[&limit]).await?;
        let envelope = |row: &Row| DeadEnvelope {
            id: row.get("id"),
            created_at: row.get("created_at"),
            convo: row.get("convo_id"),
            seq: row.get("seq"),
            recipient: row.get("recipient_did"),
            host: row.get("host"),
            attempts: row.get("attempts"),
            last_error: row.get("last_error"),
        };
        Ok(rows.iter().map(envelope).collect())
    }

    /// Requeues these dead envelopes, or all, with a fresh count of attempts. Returns their ids.
    pub async fn requeue_envelopes(&self, ids: Option<&[String]>) -> Result<Vec<String>, ConnectError> {
        let rows = self.rows(&REQUEUE, &[&ids]).await?;
        Ok(rows.iter().map(|row| row.get("id")).collect())
    }
}
