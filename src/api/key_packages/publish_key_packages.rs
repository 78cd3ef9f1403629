//! publishKeyPackages: the caller publishes many key packages at once. Each is accepted or refused for itself.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::publish_key_package::PublishKeyPackage;
use crate::api::fields::{self, Key};
use crate::api::key_package::Offered;
use crate::app::App;
use crate::commands::{self, Fingerprint, Idempotency, Offer};
use crate::error::{Code, Error};
use crate::quotas::Charge;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum key packages in one request.
const MAX_KEY_PACKAGES: usize = 100;

pub struct PublishKeyPackages;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "key_packages", deserialize_with = "fields::list::<_, _, MAX_KEY_PACKAGES>")]
    key_packages: Vec<Offered>,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
}

#[derive(Serialize)]
pub struct Output {
    succeeded: usize,
    failed: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<commands::ItemRefusal>,
}

impl Endpoint for PublishKeyPackages {
    const LEXICON: &'static str = include_str!("publish_key_packages.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::IdempotencyConflict];

    type Input = Input;
    type Output = Output;

    fn requests(input: &Input) -> usize {
        input.key_packages.len()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let count = input.key_packages.len();
        if !(1..=MAX_KEY_PACKAGES).contains(&count) {
            return Err(Code::InvalidRequest.because(format!("keyPackages must have 1 to {MAX_KEY_PACKAGES} items")));
        }
        let (owner, now) = (caller.did.clone(), app.clock.now());
        let mut fingerprint = Fingerprint::default().number(Some(count as i64));
        let (mut items, mut keys) = (Vec::with_capacity(count), HashSet::new());
        for mut item in input.key_packages {
            let key = item.idempotency_key.take().map(|key| key.0);
            if key.as_ref().is_some_and(|key| !keys.insert(key.clone())) {
                return Err(Code::InvalidRequest.because("two items of keyPackages have the same idempotencyKey"));
            }
            fingerprint = item.add_to(fingerprint).text(key.as_deref());
            // An item is one request of publishKeyPackage, and so is its key.
            let idempotency = Idempotency::new(owner.clone(), PublishKeyPackage::METHOD, key, item.fingerprint());
            items.push((item, idempotency));
        }
        let key = input.idempotency_key.map(|key| key.0);
        let idempotency = Idempotency::new(owner.clone(), PublishKeyPackages::METHOD, key, fingerprint);
        let check = {
            let (app, owner) = (app.clone(), owner.clone());
            move || {
                let offer =
                    |(item, idempotency): (Offered, _)| Offer { package: item.check(&app, &owner), idempotency };
                items.into_iter().map(offer).collect::<Vec<_>>()
            }
        };
        let offers = app.large_work.run(check).await?;
        let (mut bytes, mut rows) = (0, 0);
        for package in offers.iter().filter_map(|offer| offer.package.as_ref().ok()) {
            (bytes, rows) = (bytes + package.bytes.len(), rows + 1);
        }
        let held = app.quotas.reserve(vec![Charge::stored(&owner, bytes, rows)]);
        let command = commands::PublishKeyPackages { owner, offers, now, idempotency };
        let done = app.quotas.run_reserved(held, command, async |command| app.store.transact(command).await).await?;
        Ok(Output { succeeded: count - done.errors.len(), failed: done.errors.len(), errors: done.errors })
    }
}
