//! `catbird-server envelopes`: lists and requeues dead envelopes.

use std::fmt;

use crate::store::mailboxes::DeadEnvelope;
use crate::store::{ConnectError, Operator};

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
pub async fn list(database: &tokio_postgres::Config) -> Result<Dead, ConnectError> {
    let envelopes = Operator::connect(database).await?.dead_envelopes(MAX_LISTED).await?;
    let line = |envelope: DeadEnvelope| {
        let DeadEnvelope { id, created_at, convo, seq, recipient, host, attempts, last_error } = envelope;
        let created_at = created_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        format!(
            "{id}  {created_at}  conversation {convo} entry {seq} for {recipient} at {host}, {attempts} attempts: \
             {last_error}"
        )
    };
    Ok(Dead(envelopes.into_iter().map(line).collect()))
}

/// Requeues these dead envelopes, or all, with a fresh count of attempts. Returns their ids.
pub async fn requeue(database: &tokio_postgres::Config, ids: Option<&[String]>) -> Result<Vec<String>, ConnectError> {
    Operator::connect(database).await?.requeue_envelopes(ids).await
}
