//! Replies of requests with an idempotency key, stored in the transaction that did the work.

use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{Abort, Tx};

query! {
    FIND = "idempotency/find" (TEXT, TEXT, TEXT);
    INSERT = "idempotency/insert" (TEXT, TEXT, TEXT, BYTEA, JSONB);
}

/// Fingerprint and reply of an earlier request with the same key.
pub struct Record {
    /// SHA-256 of the request's fields.
    pub fingerprint: Vec<u8>,
    pub reply: serde_json::Value,
}

/// Returns the record of the caller's key for a method.
pub(crate) async fn find(db: &impl Queries, caller: &Did, method: &str, key: &str) -> Result<Option<Record>, Abort> {
    let row = db.find(&FIND, &[&caller.as_str(), &method, &key]).await?;
    Ok(row.map(|row| Record { fingerprint: row.get("fingerprint"), reply: row.get("reply") }))
}

/// Stores the reply of a request. If another request with the same key commits first, a constraint refuses this one.
pub(crate) async fn insert(
    tx: &Tx,
    caller: &Did,
    method: &str,
    key: &str,
    fingerprint: &[u8; 32],
    reply: &serde_json::Value,
) -> Result<(), Abort> {
    tx.rows(&INSERT, &[&caller.as_str(), &method, &key, &fingerprint.as_slice(), reply]).await?;
    Ok(())
}
