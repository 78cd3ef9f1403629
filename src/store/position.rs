//! Position in the history of a conversation, used by commands, entries and replies.

use tokio_postgres::Row;

/// A position in a conversation's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Current epoch.
    pub epoch: i64,
    /// Seq of the newest entry.
    pub seq: i64,
}

impl From<&Row> for Position {
    fn from(row: &Row) -> Self {
        Position { epoch: row.get("current_epoch"), seq: row.get("last_seq") }
    }
}
