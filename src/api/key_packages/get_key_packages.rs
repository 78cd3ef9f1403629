//! getKeyPackages: the earlier name and verb of claimKeyPackages. The work of both is here.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::bytes::to_base64;
use crate::commands::claim_key_packages;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::Did;
use crate::mls::{DEFAULT_SUITE, Suite};
use crate::quotas::Reservation;
use crate::store::key_packages::{ClaimSource, Issued};
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum DIDs in one request.
pub(super) const MAX_DIDS: usize = 100;

pub struct GetKeyPackages;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(default)]
    pub(super) dids: Vec<String>,
    #[serde(alias = "cipher_suite")]
    pub(super) cipher_suite: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    key_packages: Vec<KeyPackageRef>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyPackageRef {
    did: String,
    key_package: String,
    key_package_hash: String,
    cipher_suite: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
}

impl Endpoint for GetKeyPackages {
    const LEXICON: &'static str = include_str!("get_key_packages.json");
    const KIND: Kind = Kind::Query;
    // It claims the key packages that it returns.
    const READS: bool = false;
    const ERRORS: &'static [Code] = &[Code::TooManyDids, Code::InvalidDid, Code::InvalidCipherSuite];

    type Input = Input;
    type Output = Output;

    fn bytes(found: &Output) -> usize {
        found.key_packages.iter().map(|package| package.key_package.len()).sum()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let cipher_suite = Suite::named(input.cipher_suite.as_deref().unwrap_or(DEFAULT_SUITE))?.name;
        let asked = input.dids.clone();
        let wanted = owners(input.dids)?;
        // Reserves one package of each device of each owner before the search, so that concurrent requests count against the quota.
        let (mut held, mut waits) = (HashMap::<String, Reservation>::new(), HashMap::<String, Duration>::new());
        for owner in &wanted {
            match app.quotas.reserve_key_package(&caller.did, owner) {
                Ok(reserved) => _ = held.insert(owner.clone(), reserved),
                Err(wait) => _ = waits.insert(owner.clone(), wait),
            }
        }
        let (mut found, mut taken) = (Vec::new(), HashSet::new());
        let claimed = |source, package: Issued| {
            app.metrics.commands.key_package_issued(source);
            if matches!(source, ClaimSource::SkipLocked | ClaimSource::Wait) {
                taken.insert(package.owner.clone());
            }
            found.push(package);
        };
        let is_spared = |owner: &str| waits.contains_key(owner);
        let claiming =
            claim_key_packages(&app.store, &app.clock, &caller.did, wanted, is_spared, cipher_suite, claimed);
        let missing = claiming.await;
        held.into_iter().for_each(|(owner, held)| held.finish(taken.contains(&owner)));
        let missing = missing?;
        if let (true, Some(wait)) = (found.is_empty(), missing.iter().filter_map(|owner| waits.get(owner)).min()) {
            return Err(app.quotas.refuse_key_package(*wait));
        }
        // The order of the request, not the order in which PostgreSQL returns rows.
        found
            .sort_by_cached_key(|package| (asked.iter().position(|did| *did == package.owner), package.device.clone()));
        Ok(Output { key_packages: found.into_iter().map(KeyPackageRef::from).collect(), missing })
    }
}

/// Returns the requested DIDs without duplicates, in an order that is the same for all callers.
fn owners(dids: Vec<String>) -> Result<Vec<String>, Error> {
    match dids.len() {
        0 => return Err(Code::InvalidRequest.because("dids must not be empty")),
        1..=MAX_DIDS => {}
        _ => return Err(Code::TooManyDids.because(format!("dids must have at most {MAX_DIDS} DIDs"))),
    }
    let mut owners = Vec::with_capacity(dids.len());
    for text in dids {
        let did: Did = text.parse().map_err(|e: crate::ids::Malformed| Code::InvalidDid.because(e.to_string()))?;
        owners.push(String::from(did));
    }
    owners.sort();
    owners.dedup();
    Ok(owners)
}

impl From<Issued> for KeyPackageRef {
    fn from(package: Issued) -> Self {
        Self {
            did: package.owner,
            key_package: to_base64(&package.bytes),
            key_package_hash: hex::encode(&package.hash),
            cipher_suite: package.cipher_suite,
            device_id: package.device_id,
        }
    }
}
