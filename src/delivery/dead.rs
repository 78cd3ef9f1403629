//! `catbird-server envelopes`: lists and requeues dead envelopes.

use std::fmt;

use tokio_postgres::types::Type;

use crate::store::{self, MigrationError};

const LIST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/mailboxes/list_dead.sql"));
const REQUEUE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/mailboxes/requeue.sql"));

/// Maximum number of dead envelopes in one list, the newest first. The view `dead_envelopes` has them all.
pub const MAX_LISTED: i64 = 1_000;

/// List of dead envelopes; prints one line each.
pub struct Dead(Vec<String>);

impl fmt::Display for Dead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "{line}")?;
        }
        match self.0.len() as i64 {
            MAX_LISTED => writeln!(f, "{MAX_LISTED} dead envelopes, and perhaps more: select * from dead_envelopes"),
            listed => writeln!(f, "{listed} dead envelopes"),
        }
    }
}

/// Lists the dead envelopes.
pub async fn list(database: &tokio_postgres::Config) -> Result<Dead, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let rows = client.query_typed(LIST, &[(&MAX_LISTED, Type::INT8)]).await?;
    connection.abort();
    let line = |row: &tokio_postgres::Row| {
        let text = |column| row.get::<_, &str>(column);
        let made: chrono::DateTime<chrono::Utc> = row.get("created_at");
        format!(
            "{}  {}  conversation {} entry {} for {} at {}, {} attempts: {}",
            text("id"),
            made.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            text("convo_id"),
            row.get::<_, i64>("seq"),
            text("recipient_did"),
            text("host"),
            row.get::<_, i32>("attempts"),
            text("last_error"),
        )
    };
    Ok(Dead(rows.iter().map(line).collect()))
}

/// Requeues these dead envelopes, or all, with a fresh count of attempts. Returns their ids.
pub async fn requeue(database: &tokio_postgres::Config, ids: Option<&[String]>) -> Result<Vec<String>, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let rows = client.query_typed(REQUEUE, &[(&ids, Type::TEXT_ARRAY)]).await?;
    connection.abort();
    Ok(rows.iter().map(|row| row.get("id")).collect())
}
