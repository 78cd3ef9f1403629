//! validateDeviceState: what a device of the caller lacks: groups, and key packages.

use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::app::App;
use crate::commands::MAX_AVAILABLE;
use crate::error::{Code, Error};
use crate::store::devices;
use crate::store::events::LOW_KEY_PACKAGES;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum number of conversations that are examined, newest first.
const MAX_CONVOS: i64 = 1_000;
/// Maximum number of requests that are listed.
const MAX_REQUESTS: i64 = 100;

pub struct ValidateDeviceState;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "device_id")]
    device_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    is_valid: bool,
    issues: Vec<String>,
    recommendations: Vec<&'static str>,
    expected_convos: usize,
    actual_convos: usize,
    key_package_inventory: Inventory,
    pending_rejoin_requests: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inventory {
    available: i64,
    target: i64,
    needs_replenishment: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_device_count: Option<i64>,
}

impl Endpoint for ValidateDeviceState {
    const LEXICON: &'static str = include_str!("validate_device_state.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::DeviceNotFound];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let (device_id, now) = (input.device_id.map(fields::device_id).transpose()?, app.clock.now());
        let reader = app.store.reader().await?;
        let of_device = match &device_id {
            Some(id) => {
                let devices = reader.devices(&caller.did, now).await?;
                let device = devices.into_iter().find(|device| device.id == *id);
                Some(device.ok_or_else(devices::not_found)?.one_time)
            }
            None => None,
        };
        let stock = reader.key_package_stock(&caller.did, None, now).await?;
        let available = of_device.unwrap_or_else(|| stock.iter().map(|stock| stock.available).sum());
        let convos = reader.expected_convos(&caller.did, device_id.as_deref(), None, MAX_CONVOS).await?;
        let pending_rejoin_requests = reader.open_readditions(&caller.did, MAX_REQUESTS).await?;

        let (mut issues, mut recommendations) = (Vec::new(), Vec::new());
        let expected = convos.iter().filter(|convo| convo.in_group);
        let missing = expected.clone().filter(|convo| convo.device_in_group == Some(false)).count();
        if missing > 0 {
            issues.push(format!("the device is not in the groups of {missing} conversations"));
            recommendations.push("join them with processExternalCommit, or wait until another device adds this one");
        }
        let named = convos.iter().filter(|convo| !convo.in_group).count();
        if named > 0 {
            issues.push(format!("you are on the roster of {named} conversations without being in their groups"));
            recommendations.push("ask their members with rejoin to add you");
        }
        let needs_replenishment = available < LOW_KEY_PACKAGES;
        if needs_replenishment {
            issues.push(format!("{available} one-time key packages are left"));
            recommendations.push("publish more with publishKeyPackages");
        }
        Ok(Output {
            is_valid: issues.is_empty(),
            issues,
            recommendations,
            expected_convos: expected.clone().count(),
            actual_convos: expected.filter(|convo| convo.device_in_group != Some(false)).count(),
            key_package_inventory: Inventory {
                available,
                target: MAX_AVAILABLE,
                needs_replenishment,
                per_device_count: of_device,
            },
            pending_rejoin_requests,
        })
    }
}
