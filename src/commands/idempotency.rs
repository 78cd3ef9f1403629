//! Idempotency keys: the fingerprint that makes two requests equal, and the record of a key's reply.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Code, Error};
use crate::ids::Did;
use crate::store::{Abort, Queries, Tx, idempotency};

/// Digest of a request's fields. It depends on their order and lengths, but not on the spelling of the JSON.
#[derive(Debug, Default, Clone)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Adds a field that may be absent.
    pub fn field(mut self, value: Option<&[u8]>) -> Self {
        match value {
            None => self.0.update([0]),
            Some(bytes) => {
                self.0.update([1]);
                self.0.update((bytes.len() as u64).to_be_bytes());
                self.0.update(bytes);
            }
        }
        self
    }

    /// Adds a text that may be absent.
    pub fn text(self, value: Option<&str>) -> Self {
        self.field(value.map(str::as_bytes))
    }

    /// Adds a number that may be absent.
    pub fn number(self, value: Option<i64>) -> Self {
        self.field(value.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice))
    }

    /// Adds a list; its length is part of the digest.
    pub fn list<'a>(self, values: impl ExactSizeIterator<Item = &'a [u8]>) -> Self {
        let counted = self.number(Some(values.len() as i64));
        values.fold(counted, |print, value| print.field(Some(value)))
    }
}

/// Idempotency key of one request, if it has one, and the request's fingerprint.
#[derive(Debug, Clone)]
pub struct Idempotency {
    caller: Did,
    method: &'static str,
    key: Option<String>,
    fingerprint: [u8; 32],
}

impl Idempotency {
    /// `method` without the namespace.
    pub fn new(caller: Did, method: &'static str, key: Option<String>, fingerprint: Fingerprint) -> Self {
        Self { caller, method, key, fingerprint: fingerprint.0.finalize().into() }
    }

    /// The caller's key and the request's fingerprint, if it sent a key.
    pub(super) fn key(&self) -> Option<(&str, &[u8; 32])> {
        self.key.as_deref().map(|key| (key, &self.fingerprint))
    }

    /// The method, without the namespace.
    pub(super) fn method(&self) -> &'static str {
        self.method
    }

    /// Returns whether the caller sent a key.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Returns the reply that an equal request with this key got. A different request with it is `IdempotencyConflict`.
    pub(super) async fn replay<T: DeserializeOwned>(&self, db: &impl Queries) -> Result<Option<T>, Abort> {
        let Some(key) = &self.key else { return Ok(None) };
        let Some(record) = idempotency::find(db, &self.caller, self.method, key).await? else { return Ok(None) };
        if record.fingerprint != self.fingerprint {
            let message = "this idempotencyKey was used for a different request; use a new key for each request";
            return Err(Code::IdempotencyConflict.because(message).into());
        }
        Ok(Some(serde_json::from_value(record.reply).map_err(Error::internal)?))
    }

    /// Records the reply, in the transaction that does the work.
    pub(super) async fn record<T: Serialize>(&self, tx: &Tx, reply: &T) -> Result<(), Abort> {
        let Some(key) = &self.key else { return Ok(()) };
        let reply = serde_json::to_value(reply).map_err(Error::internal)?;
        idempotency::insert(tx, &self.caller, self.method, key, &self.fingerprint, &reply).await
    }
}
