//! rejoin: a member that lost its state asks the others to add it to the MLS group again, with a key package that it publishes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::api::group;
use crate::api::key_package::Offered;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{RejoinPackage, RequestReaddition};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::mls;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum size of the key package, which is part of an event to all members.
const MAX_REJOIN_PACKAGE_BYTES: usize = 16_384;
const MAX_REASON: usize = 256;

pub struct Rejoin;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
    key_package: LexBytes,
    reason: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    request_id: String,
    pending: bool,
}

impl Endpoint for Rejoin {
    const LEXICON: &'static str = include_str!("rejoin.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::InvalidKeyPackage,
        Code::InvalidCipherSuite,
        Code::ExpirationTooFar,
        Code::TooManyKeyPackages,
    ];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let bytes = input.key_package.0;
        if bytes.len() > MAX_REJOIN_PACKAGE_BYTES {
            return Err(Code::InvalidKeyPackage.because("keyPackage must have at most 16 KiB"));
        }
        let reason = fields::text(input.reason, MAX_REASON, Code::InvalidRequest, "reason")?;
        let base64 = STANDARD.encode(&bytes);
        let suite = group::suite(app, caller, &input.convo_id).await?;
        let identity = mls::key_package_identity(&bytes).unwrap_or_else(|| caller.did.to_string());
        let offered = Offered {
            key_package: LexBytes(bytes),
            cipher_suite: suite.name.to_owned(),
            expires: None,
            device_id: None,
            idempotency_key: None,
        };
        let package = offered.check(app, &caller.did)?;
        let package = Some(RejoinPackage { package, identity, base64, now: app.clock.now() });
        let (convo_id, id) = (input.convo_id, app.new_id());
        let request = RequestReaddition { convo_id, caller: caller.did.clone(), id, package, reason };
        let requested = app.store.transact(request).await?;
        Ok(Output { request_id: requested.id, pending: true })
    }
}
