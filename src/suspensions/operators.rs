//! `catbird-server suspensions`: lists and changes suspensions.

use std::fmt;

use super::names::NameKey;
use crate::ids::Did;
use crate::store::suspensions::Suspension;
use crate::store::{ConnectError, Operator};

/// Number of DIDs that are searched at a time.
const MAX_BATCH: i64 = 10_000;
/// Maximum number of DIDs in one list, the latest first. The table `suspensions` has them all.
pub const MAX_LISTED: i64 = 1_000;

/// List of suspended DIDs; prints one line each.
pub struct Suspended(Vec<String>);

impl fmt::Display for Suspended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "{line}")?;
        }
        match self.0.len() as i64 {
            MAX_LISTED => writeln!(f, "{MAX_LISTED} suspended, and perhaps more: select * from suspensions"),
            listed => writeln!(f, "{listed} suspended"),
        }
    }
}

/// Lists the suspended DIDs with time and reason.
pub async fn list(database: &tokio_postgres::Config) -> Result<Suspended, ConnectError> {
    let suspensions = Operator::connect(database).await?.suspensions(MAX_LISTED).await?;
    let line = |Suspension { did, since, reason }| {
        format!("{}  {did}  {reason}", since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    };
    Ok(Suspended(suspensions.into_iter().map(line).collect()))
}

/// Suspends these DIDs, with a reason of 1 to 1000 bytes for other operators. Returns how many are now suspended for
/// it.
pub async fn add(database: &tokio_postgres::Config, dids: &[Did], reason: &str) -> Result<usize, ConnectError> {
    Operator::connect(database).await?.suspend(dids, reason).await
}

/// Lifts the suspension of these DIDs. Returns how many were suspended.
pub async fn lift(database: &tokio_postgres::Config, dids: &[Did]) -> Result<usize, ConnectError> {
    Operator::connect(database).await?.lift_suspensions(dids).await
}

/// Reason why log names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NamesError {
    #[error(transparent)]
    Connection(#[from] ConnectError),
    #[error("the table caller_names is empty")]
    NoKey,
}

/// Returns the log names of these DIDs, each with its DID.
pub async fn names(database: &tokio_postgres::Config, dids: &[Did]) -> Result<Vec<String>, NamesError> {
    let key = key(&Operator::connect(database).await?).await?;
    Ok(dids.iter().map(|did| format!("{}  {did}", key.name(did.as_str()))).collect())
}

/// Finds the DIDs of a log name among recent callers whose DID documents are stored.
pub async fn who(database: &tokio_postgres::Config, name: &str) -> Result<Vec<String>, NamesError> {
    let operator = Operator::connect(database).await?;
    let key = key(&operator).await?;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let mut dids = operator.known_dids(&after, MAX_BATCH).await?;
        match dids.last() {
            Some(last) => after.clone_from(last),
            None => return Ok(found),
        }
        dids.retain(|did| key.name(did) == name);
        found.append(&mut dids);
    }
}

async fn key(operator: &Operator) -> Result<NameKey, NamesError> {
    operator.names_key().await?.map(NameKey).ok_or(NamesError::NoKey)
}
