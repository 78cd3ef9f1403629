//! claimKeyPackages: claims one key package of each person that the caller wants to add.

use serde::Deserialize;

use super::get_key_packages::{self, GetKeyPackages, MAX_DIDS, Output};
use crate::api::fields;
use crate::app::App;
use crate::error::{Code, Error};
use crate::xrpc::{Caller, Endpoint, Kind, ReplyKind};

pub struct ClaimKeyPackages;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(deserialize_with = "fields::list::<_, _, MAX_DIDS>")]
    dids: Vec<String>,
    #[serde(alias = "cipher_suite")]
    cipher_suite: Option<String>,
}

impl Endpoint for ClaimKeyPackages {
    const LEXICON: &'static str = include_str!("claim_key_packages.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = GetKeyPackages::ERRORS;

    type Input = Input;
    type Output = Output;

    fn bytes(found: &Output) -> usize {
        GetKeyPackages::bytes(found)
    }

    /// A repeated request within the lease gets the same key packages.
    fn reply_kind(_: &Output) -> ReplyKind {
        ReplyKind::Data
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { dids, cipher_suite } = input;
        GetKeyPackages::call(app, caller, get_key_packages::Input { dids, cipher_suite }).await
    }
}
