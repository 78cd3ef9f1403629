//! `catbird-server suspensions`: lists and changes suspensions.

use std::fmt;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::names::NameKey;
use crate::ids::Did;
use crate::store::{self, MigrationError};

const ADD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/suspensions/add.sql"));
const LIFT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/suspensions/lift.sql"));
const LIST: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/suspensions/list.sql"));

const NAMES_KEY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/suspensions/names_key.sql"));
const KNOWN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/sql/queries/suspensions/known.sql"));

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
pub async fn list(database: &tokio_postgres::Config) -> Result<Suspended, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let rows = client.query_typed(LIST, &[(&MAX_LISTED, Type::INT8)]).await?;
    connection.abort();
    let line = |row: &Row| {
        let since: chrono::DateTime<chrono::Utc> = row.get("suspended_at");
        let since = since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
        format!("{since}  {}  {}", row.get::<_, &str>("did"), row.get::<_, &str>("reason"))
    };
    Ok(Suspended(rows.iter().map(line).collect()))
}

/// Suspends these DIDs, with a reason of 1 to 1000 bytes for other operators. Returns how many are now suspended for
/// it.
pub async fn add(database: &tokio_postgres::Config, dids: &[Did], reason: &str) -> Result<usize, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let rows = client.query_typed(ADD, &[(&texts(dids), Type::TEXT_ARRAY), (&reason, Type::TEXT)]).await?;
    connection.abort();
    Ok(rows.len())
}

/// Lifts the suspension of these DIDs. Returns how many were suspended.
pub async fn lift(database: &tokio_postgres::Config, dids: &[Did]) -> Result<usize, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let rows = client.query_typed(LIFT, &[(&texts(dids), Type::TEXT_ARRAY)]).await?;
    connection.abort();
    Ok(rows.len())
}

/// Returns the log names of these DIDs, each with its DID.
pub async fn names(database: &tokio_postgres::Config, dids: &[Did]) -> Result<Vec<String>, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let key = key(&client).await?;
    connection.abort();
    Ok(dids.iter().map(|did| format!("{}  {did}", key.name(did.as_str()))).collect())
}

/// Finds the DIDs of a log name among recent callers whose DID documents are stored.
pub async fn who(database: &tokio_postgres::Config, name: &str) -> Result<Vec<String>, MigrationError> {
    let (client, connection) = store::connect(database).await?;
    let key = key(&client).await?;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let rows = client.query_typed(KNOWN, &[(&after, Type::TEXT), (&MAX_BATCH, Type::INT8)]).await?;
        let dids = rows.iter().map(|row| row.get::<_, &str>("did"));
        found.extend(dids.filter(|did| key.name(did) == name).map(str::to_owned));
        match rows.last() {
            Some(last) => after = last.get("did"),
            None => break,
        }
    }
    connection.abort();
    Ok(found)
}

async fn key(client: &tokio_postgres::Client) -> Result<NameKey, tokio_postgres::Error> {
    Ok(NameKey(client.query_one(NAMES_KEY, &[]).await?.get("key")))
}

fn texts(dids: &[Did]) -> Vec<&str> {
    dids.iter().map(Did::as_str).collect()
}
