//! Records of requests that carried an idempotency key, written in the transaction that did the work.

use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{Abort, Tx};

query! {
    FIND = "requests/find" (TEXT, TEXT, TEXT);
    INSERT = "requests/insert" (TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, JSONB_ARRAY);
}

/// What an earlier request under the same key was, and what it got.
pub struct Record {
    /// SHA-256 of the request's fields.
    pub fingerprint: Vec<u8>,
    pub reply: serde_json::Value,
}

/// The record of the caller's key for a method.
pub(crate) async fn find(tx: &Tx, caller: &Did, method: &str, key: &str) -> Result<Option<Record>, Abort> {
    let row = tx.find(&FIND, &[&caller.as_str(), &method, &key]).await?;
    Ok(row.map(|row| Record { fingerprint: row.get("fingerprint"), reply: row.get("reply") }))
}

/// The record of a request that is being done.
#[derive(Debug)]
pub struct NewRecord {
    pub caller: Did,
    pub method: &'static str,
    pub key: String,
    pub fingerprint: [u8; 32],
    pub reply: serde_json::Value,
}

impl NewRecord {
    /// What no other record has.
    pub fn key(&self) -> (&str, &str, &str) {
        (self.caller.as_str(), self.method, &self.key)
    }
}

/// Remembers what a request got. If another one under the same key commits first, its constraint sends this one back.
pub(crate) async fn insert(tx: &Tx, record: NewRecord) -> Result<(), Abort> {
    if tx.is_shared() {
        tx.later().remember(record);
        return Ok(());
    }
    insert_all(tx, &[record]).await
}

/// The same for several, in their order.
pub(super) async fn insert_all(tx: &Tx, records: &[NewRecord]) -> Result<(), Abort> {
    if records.is_empty() {
        return Ok(());
    }
    let callers: Vec<&str> = records.iter().map(|record| record.caller.as_str()).collect();
    let methods: Vec<&str> = records.iter().map(|record| record.method).collect();
    let keys: Vec<&str> = records.iter().map(|record| record.key.as_str()).collect();
    let fingerprints: Vec<&[u8]> = records.iter().map(|record| record.fingerprint.as_slice()).collect();
    let replies: Vec<&serde_json::Value> = records.iter().map(|record| &record.reply).collect();
    tx.rows(&INSERT, &[&callers, &methods, &keys, &fingerprints, &replies]).await?;
    Ok(())
}
