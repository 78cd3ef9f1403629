//! claimPendingDeviceAddition: a member claims the addition of another device, and a key package for it.

use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::api::key_packages::get_key_packages::KeyPackageRef;
use crate::api::visible;
use crate::app::App;
use crate::commands::{self, ClaimedAddition};
use crate::error::{Code, Error};
use crate::store::device_additions;
use crate::store::key_packages::ClaimSource;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct ClaimPendingDeviceAddition;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "pending_addition_id")]
    pending_addition_id: String,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    claimed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    convo_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_credential_did: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_package: Option<KeyPackageRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
}

impl Endpoint for ClaimPendingDeviceAddition {
    const LEXICON: &'static str = include_str!("claim_pending_device_addition.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let id = fields::addition_id(input.pending_addition_id)?;
        let reader = app.store.reader().await?;
        let Some(addition) = device_additions::find(&reader, &id, &caller.did).await? else {
            return Ok(Output::default());
        };
        drop(reader);
        let present_in = visible::device_epoch(app, caller, &addition).await?;
        // Nothing protects the stock from its owner.
        let held = (addition.owner != caller.did.as_str())
            .then(|| app.quotas.reserve_key_package(&caller.did, &addition.owner))
            .transpose();
        let (spares, now) = (held.is_err(), app.clock.now());
        let (caller_did, owner) = (caller.did.clone(), addition.owner);
        let claim = commands::ClaimAddition { addition_id: id, caller: caller_did, owner, spares, present_in, now };
        let claimed = app.store.transact(claim).await;
        let one_time =
            |claimed: &ClaimedAddition| matches!(claimed, ClaimedAddition::Claimed(_, ClaimSource::SkipLocked, _));
        if let Ok(Some(held)) = held {
            held.finish(claimed.as_ref().is_ok_and(one_time));
        }
        Ok(match claimed? {
            ClaimedAddition::Nothing => Output::default(),
            ClaimedAddition::Held(addition) => Output { claimed_by: addition.claimed_by, ..Output::default() },
            ClaimedAddition::Claimed(addition, source, package) => {
                app.metrics.commands.key_package_issued(source);
                Output {
                    claimed: true,
                    device_credential_did: Some(format!("{}#{}", addition.owner, addition.device_id)),
                    convo_id: Some(addition.convo_id),
                    key_package: Some((*package).into()),
                    claimed_by: Some(caller.did.to_string()),
                }
            }
        })
    }
}
