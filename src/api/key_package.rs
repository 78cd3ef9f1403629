//! A key package that its owner publishes, alone or in a list: its fields and their check. Nothing here reads the database.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use super::fields::{self, Key};
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::Fingerprint;
use crate::error::{Code, Error};
use crate::ids::Did;
use crate::mls::{self, Suite};
use crate::store::key_packages::NewKeyPackage;

/// Longest time that a key package may wait to be claimed.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(90);

/// Key package as a request has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Offered {
    #[serde(alias = "key_package")]
    pub key_package: LexBytes,
    #[serde(alias = "cipher_suite")]
    pub cipher_suite: String,
    pub expires: Option<DateTime<Utc>>,
    #[serde(alias = "device_id")]
    pub device_id: Option<String>,
    #[serde(alias = "idempotency_key")]
    pub idempotency_key: Option<Key>,
}

impl Offered {
    /// Returns the fingerprint of its fields, without the key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.add_to(Fingerprint::default())
    }

    /// Adds its fields to the fingerprint of a request.
    pub fn add_to(&self, fingerprint: Fingerprint) -> Fingerprint {
        let fingerprint = fingerprint
            .field(Some(&self.key_package.0))
            .text(Some(&self.cipher_suite))
            .number(self.expires.map(|at| at.timestamp()));
        // Requests without a device have the fingerprint that earlier builds have recorded.
        match &self.device_id {
            Some(device_id) => fingerprint.text(Some(device_id)),
            None => fingerprint,
        }
    }

    /// Checks it and returns the row to store. The check verifies two signatures, so a list is checked on a blocking thread.
    pub fn check(self, app: &App, owner: &Did) -> Result<NewKeyPackage, Error> {
        let now = app.clock.now();
        let device_id = self.device_id.map(fields::device_id).transpose()?;
        let bytes = self.key_package.0;
        let suite = Suite::named(&self.cipher_suite)?;
        let latest = now + MAX_LIFETIME;
        if self.expires.is_some_and(|expires| expires > latest) {
            return Err(Code::ExpirationTooFar.because("expires is more than 90 days in the future"));
        }
        let facts = mls::check_key_package(&bytes, owner, suite, app.config.mls_validation, now)?;
        let expires_at = [self.expires, facts.not_after].into_iter().flatten().fold(latest, DateTime::min);
        if expires_at <= now {
            return Err(Code::InvalidKeyPackage.because("expires is in the past"));
        }
        Ok(NewKeyPackage {
            hash: facts.hash,
            init_key_hash: facts.init_key_hash,
            signature_key: facts.signature_key,
            device_id,
            cipher_suite: suite.name.to_owned(),
            reference: facts.reference,
            bytes,
            last_resort: facts.last_resort,
            expires_at,
        })
    }
}
