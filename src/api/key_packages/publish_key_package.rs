//! publishKeyPackage: the caller publishes a key package for others to claim.

use serde::Serialize;

use crate::api::key_package::Offered;
use crate::app::App;
use crate::commands::{self, Idempotency, Offer};
use crate::error::{Code, Error};
use crate::quotas::Charge;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct PublishKeyPackage;

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
        Code::DeviceNotFound,
        Code::IdempotencyConflict,
    ];

    type Input = Offered;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, mut input: Offered) -> Result<Output, Error> {
        let (owner, now) = (caller.did.clone(), app.clock.now());
        let key = input.idempotency_key.take().map(|key| key.0);
        let idempotency = Idempotency::new(owner.clone(), PublishKeyPackage::METHOD, key, input.fingerprint());
        let package = input.check(app, &owner);
        // Without a key, no earlier request can replace the refusal.
        if !idempotency.has_key()
            && let Err(refusal) = package
        {
            return Err(refusal);
        }
        let bytes = package.as_ref().map_or(0, |package| package.bytes.len());
        let held = app.quotas.reserve(vec![Charge::stored(&owner, bytes, 1)]);
        let command = commands::PublishKeyPackage { owner, offer: Offer { package, idempotency }, now };
        let published =
            app.quotas.run_reserved(held, command, async |command| app.store.transact(command).await).await?;
        Ok(Output { success: true, key_package_hash: published.hash })
    }
}
