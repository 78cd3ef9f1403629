//! Stored DID documents, for replicas that have just started.

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::Did;

use super::Store;
use super::query::query;

query! {
    FIND = "auth/find_documents" (TEXT_ARRAY);
    KEEP = "auth/keep_documents" (TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY);
    FORGET = "auth/forget_documents" (TEXT_ARRAY);
}

/// Stored part of a DID document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Key of the account, in Multikey form.
    pub account_key: String,
    pub fetched_at: DateTime<Utc>,
}

impl Store {
    /// Returns the stored documents of these DIDs, by DID.
    pub async fn did_documents(&self, dids: &[&Did]) -> Result<Vec<(String, Kept)>, Error> {
        let dids: Vec<&str> = dids.iter().map(|did| did.as_str()).collect();
        let rows = self.within(&FIND, &[&dids]).await?;
        let kept = |row: &tokio_postgres::Row| {
            (row.get("did"), Kept { account_key: row.get("account_key"), fetched_at: row.get("fetched_at") })
        };
        Ok(rows.iter().map(kept).collect())
    }

    /// Stores documents, except those with a newer stored version. No DID may occur twice.
    pub async fn keep_did_documents(&self, documents: &[(&Did, &Kept)]) -> Result<(), Error> {
        let dids: Vec<&str> = documents.iter().map(|(did, _)| did.as_str()).collect();
        let keys: Vec<&str> = documents.iter().map(|(_, kept)| kept.account_key.as_str()).collect();
        let fetched_at: Vec<DateTime<Utc>> = documents.iter().map(|(_, kept)| kept.fetched_at).collect();
        // One statement is a transaction by itself.
        self.within(&KEEP, &[&dids, &keys, &fetched_at]).await.map(drop)
    }

    /// Deletes the stored documents of these DIDs.
    pub async fn forget_did_documents(&self, dids: &[&Did]) -> Result<(), Error> {
        let dids: Vec<&str> = dids.iter().map(|did| did.as_str()).collect();
        self.within(&FORGET, &[&dids]).await.map(drop)
    }
}
