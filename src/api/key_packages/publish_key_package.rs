//! publishKeyPackage: the caller publishes a key package for others to claim.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::api::fields::Key;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::mls::{self, Suite};
use crate::quotas::Charge;
use crate::store::key_packages::NewKeyPackage;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Longest time that a key package may wait to be claimed.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(90);

pub struct PublishKeyPackage;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "key_package")]
    key_package: LexBytes,
    #[serde(alias = "cipher_suite")]
    cipher_suite: String,
    expires: Option<DateTime<Utc>>,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    success: bool,
    key_package_hash: String,
}

impl Endpoint for PublishKeyPackage {
    const LEXICON: &'static str = include_str!("publish_key_package.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::InvalidKeyPackage,
        Code::InvalidCipherSuite,
        Code::ExpirationTooFar,
        Code::TooManyKeyPackages,
        Code::IdempotencyConflict,
    ];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let now = app.clock.now();
        let fingerprint = Fingerprint::default()
            .field(Some(&input.key_package.0))
            .text(Some(&input.cipher_suite))
            .number(input.expires.map(|at| at.timestamp()));
        let key = input.idempotency_key.map(|key| key.0);
        let package = check(input.key_package.0, &input.cipher_suite, input.expires, app, caller);
        // Without a key, no earlier request can replace the refusal.
        if key.is_none()
            && let Err(refusal) = package
        {
            return Err(refusal);
        }
        let owner = caller.did.clone();
        let idempotency = Idempotency::new(owner.clone(), PublishKeyPackage::METHOD, key, fingerprint);
        let bytes = package.as_ref().map_or(0, |package| package.bytes.len());
        let held = app.quotas.reserve(vec![Charge::stored(&owner, bytes, 1)]);
        let command = commands::PublishKeyPackage { owner, package, now, idempotency };
        let published =
            app.quotas.run_reserved(held, command, async |command| app.store.transact(command).await).await?;
        Ok(Output { success: true, key_package_hash: published.hash })
    }
}

/// Checks a key package and returns the row to store.
fn check(
    bytes: Vec<u8>,
    cipher_suite: &str,
    expires: Option<DateTime<Utc>>,
    app: &App,
    caller: &Caller,
) -> Result<NewKeyPackage, Error> {
    let now = app.clock.now();
    let suite = Suite::named(cipher_suite)?;
    let latest = now + MAX_LIFETIME;
    if expires.is_some_and(|expires| expires > latest) {
        return Err(Code::ExpirationTooFar.because("expires is more than 90 days in the future"));
    }
    let facts = mls::check_key_package(&bytes, &caller.did, suite, app.config.mls_validation, now)?;
    let expires_at = [expires, facts.not_after].into_iter().flatten().fold(latest, DateTime::min);
    if expires_at <= now {
        return Err(Code::InvalidKeyPackage.because("expires is in the past"));
    }
    Ok(NewKeyPackage {
        hash: facts.hash,
        init_key_hash: facts.init_key_hash,
        owner: caller.did.clone(),
        cipher_suite: suite.name.to_owned(),
        reference: facts.reference,
        bytes,
        last_resort: facts.last_resort,
        expires_at,
    })
}
