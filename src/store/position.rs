//! A place in the history of a conversation, as commands, entries and replies name it.

use tokio_postgres::Row;

/// A place in a conversation's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The current epoch.
    pub epoch: i64,
    /// The newest entry's seq.
    pub seq: i64,
}

impl From<&Row> for Position {
    fn from(row: &Row) -> Self {
        Position { epoch: row.get("current_epoch"), seq: row.get("last_seq") }
    }
}
