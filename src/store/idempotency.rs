//! Records of requests that carried an idempotency key, written in the transaction that did the work.

use crate::ids::Did;

use super::query::query;
use super::session::Queries;
use super::{Abort, Tx};

query! {
    FIND = "idempotency/find" (TEXT, TEXT, TEXT);
    INSERT = "idempotency/insert" (TEXT, TEXT, TEXT, BYTEA, JSONB);
}

/// What an earlier request under the same key was, and what it got.
pub struct Record {
    /// SHA-256 of the request's fields.
    pub fingerprint: Vec<u8>,
    pub reply: serde_json::Value,
}

/// The record of the caller's key for a method.
pub(crate) async fn find(db: &impl Queries, caller: &Did, method: &str, key: &str) -> Result<Option<Record>, Abort> {
    let row = db.find(&FIND, &[&caller.as_str(), &method, &key]).await?;
    Ok(row.map(|row| Record { fingerprint: row.get("fingerprint"), reply: row.get("reply") }))
}

/// Remembers what a request got. If another one under the same key commits first, its constraint sends this one back.
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
