//! Suspended DIDs and the key of the callers' log names: read by replicas, changed by operators.

use std::collections::HashSet;

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{ConnectError, Operator, Reader};

query! {
    VERSION = "suspensions/version" ();
    PAGE = "suspensions/page" (TEXT, INT8);
    NAMES_KEY = "suspensions/names_key" ();
    ADD = "suspensions/add" (TEXT_ARRAY, TEXT);
    LIFT = "suspensions/lift" (TEXT_ARRAY);
    COUNT = "suspensions/count" (TEXT_ARRAY);
    LIST = "suspensions/list" (INT8);
    KNOWN = "suspensions/known" (TEXT, INT8);
}

/// Maximum number of DIDs in one statement.
const MAX_PAGE_ROWS: i64 = 10_000;

impl Reader {
    /// Returns the version of the list, which changes with every change of the list.
    pub async fn suspensions_version(&self) -> Result<String, Error> {
        let row = self.find(&VERSION, &[]).await?;
        // No statement here deletes the row. Without it the version never changes.
        Ok(row.map(|row| row.get("version")).unwrap_or_default())
    }

    /// Returns the key of the callers' log names.
    pub async fn names_key(&self) -> Result<Vec<u8>, Error> {
        let row = self.find(&NAMES_KEY, &[]).await?;
        Ok(row.ok_or_else(|| Error::internal("the table caller_names is empty"))?.get("key"))
    }

    /// Returns all suspended DIDs. A change during the read may be included or not.
    pub async fn suspended(&self) -> Result<HashSet<String>, Error> {
        let (mut all, mut after) = (HashSet::new(), String::new());
        loop {
            let rows = self.rows(&PAGE, &[&after, &MAX_PAGE_ROWS]).await?;
            all.extend(rows.iter().map(|row| row.get::<_, String>("did")));
            match rows.last() {
                Some(last) if rows.len() as i64 == MAX_PAGE_ROWS => after = last.get("did"),
                _ => return Ok(all),
            }
        }
    }
}

/// A suspension, as operators see it.
pub struct Suspension {
    pub did: String,
    pub since: DateTime<Utc>,
    pub reason: String,
}

impl Operator {
    /// Returns the latest suspensions, at most `limit`.
    pub async fn suspensions(&self, limit: i64) -> Result<Vec<Suspension>, ConnectError> {
        let rows = self.rows(&LIST, &[&limit]).await?;
        let suspension = |row: &tokio_postgres::Row| Suspension {
            did: row.get("did"),
            since: row.get("suspended_at"),
            reason: row.get("reason"),
        };
        Ok(rows.iter().map(suspension).collect())
    }

    /// Suspends these DIDs, and returns how many are now suspended for this reason.
    pub async fn suspend(&self, dids: &[Did], reason: &str) -> Result<usize, ConnectError> {
        Ok(self.rows(&ADD, &[&texts(dids), &reason]).await?.len())
    }

    /// Lifts the suspension of these DIDs, and returns how many were suspended.
    pub async fn lift_suspensions(&self, dids: &[Did]) -> Result<usize, ConnectError> {
        Ok(self.rows(&LIFT, &[&texts(dids)]).await?.len())
    }

    /// Returns how many of these DIDs are suspended.
    pub async fn count_suspensions(&self, dids: &[Did]) -> Result<usize, ConnectError> {
        let rows = self.rows(&COUNT, &[&texts(dids)]).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>("suspended")) as usize)
    }

    /// Returns the key of the callers' log names; `None` if the table `caller_names` is empty.
    pub async fn names_key(&self) -> Result<Option<Vec<u8>>, ConnectError> {
        Ok(self.rows(&NAMES_KEY, &[]).await?.first().map(|row| row.get("key")))
    }

    /// Returns DIDs whose documents are stored, in order, after `after`; at most `limit`.
    pub async fn known_dids(&self, after: &str, limit: i64) -> Result<Vec<String>, ConnectError> {
        let rows = self.rows(&KNOWN, &[&after, &limit]).await?;
        Ok(rows.iter().map(|row| row.get("did")).collect())
    }
}

fn texts(dids: &[Did]) -> Vec<&str> {
    dids.iter().map(Did::as_str).collect()
}
