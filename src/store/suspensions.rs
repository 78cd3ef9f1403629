//! Suspended DIDs, and by what name the log speaks of others, as replicas read them.

use std::collections::HashSet;

use crate::error::Error;

use super::query::query;
use super::session::Queries;
use super::{Abort, Reader};

query! {
    VERSION = "suspensions/version" ();
    PAGE = "suspensions/page" (TEXT, INT8);
    NAMES_KEY = "suspensions/names_key" ();
}

/// Most DIDs in one statement.
const PAGE_ROWS: i64 = 10_000;

impl Reader {
    /// What the list is known by. It is another one after each change.
    pub async fn suspensions_version(&self) -> Result<String, Error> {
        let row = self.find(&VERSION, &[]).await.map_err(Abort::into_error)?;
        // Without the row, which no statement here deletes, it does not change.
        Ok(row.map(|row| row.get("version")).unwrap_or_default())
    }

    /// What callers' names in the log are made with.
    pub async fn names_key(&self) -> Result<Vec<u8>, Error> {
        let row = self.find(&NAMES_KEY, &[]).await.map_err(Abort::into_error)?;
        Ok(row.ok_or_else(|| Error::internal("the table caller_names is empty"))?.get("key"))
    }

    /// Every suspended DID. What is changed meanwhile may be in it or not.
    pub async fn suspended(&self) -> Result<HashSet<String>, Error> {
        let (mut all, mut after) = (HashSet::new(), String::new());
        loop {
            let rows = self.rows(&PAGE, &[&after, &PAGE_ROWS]).await.map_err(Abort::into_error)?;
            all.extend(rows.iter().map(|row| row.get::<_, String>("did")));
            match rows.last() {
                Some(last) if rows.len() as i64 == PAGE_ROWS => after = last.get("did"),
                _ => return Ok(all),
            }
        }
    }
}
