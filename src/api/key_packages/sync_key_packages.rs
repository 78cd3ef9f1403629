//! syncKeyPackages: compares the key packages of a client with those of the server, and withdraws those that the client names.
//!
//! Nothing is deleted because it is absent from a list: an empty or truncated list withdraws nothing.

use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::app::App;
use crate::commands;
use crate::error::{Code, Error};
use crate::hex;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum hashes in one list.
const MAX_HASHES: usize = 200;

pub struct SyncKeyPackages;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "local_hashes", deserialize_with = "fields::required_list::<_, _, MAX_HASHES>")]
    local_hashes: Vec<String>,
    #[serde(default, alias = "delete_hashes", deserialize_with = "fields::list::<_, _, MAX_HASHES>")]
    delete_hashes: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    server_hashes: Vec<String>,
    orphaned_hashes: Vec<String>,
    orphaned_count: usize,
    missing_hashes: Vec<String>,
    deleted_count: usize,
    remaining_available: usize,
}

impl Endpoint for SyncKeyPackages {
    const LEXICON: &'static str = include_str!("sync_key_packages.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let local = hashes(input.local_hashes, "localHashes")?;
        let delete = hashes(input.delete_hashes, "deleteHashes")?;
        let command = commands::SyncKeyPackages { owner: caller.did.clone(), local, delete, now: app.clock.now() };
        let found = app.store.transact(command).await?;
        let spell = |hashes: Vec<Vec<u8>>| hashes.iter().map(|hash| hex::encode(hash)).collect::<Vec<_>>();
        Ok(Output {
            remaining_available: found.available.len(),
            server_hashes: spell(found.available),
            orphaned_count: found.orphaned.len(),
            orphaned_hashes: spell(found.orphaned),
            missing_hashes: spell(found.missing),
            deleted_count: found.withdrawn,
        })
    }
}

/// Parses hashes in hex: SHA-256 of a package's bytes, or the package's reference, which is as long as the hash of its suite.
fn hashes(texts: Vec<String>, what: &str) -> Result<Vec<Vec<u8>>, Error> {
    if texts.len() > MAX_HASHES {
        return Err(Code::InvalidRequest.because(format!("{what} must have at most {MAX_HASHES} hashes")));
    }
    let hashes = texts.iter().map(|text| hex::decode(text).filter(|hash| (32..=64).contains(&hash.len())));
    hashes
        .collect::<Option<_>>()
        .ok_or_else(|| Code::InvalidRequest.because(format!("{what} must have hashes of 64 to 128 hex digits")))
}
