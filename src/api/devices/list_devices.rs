//! listDevices: the caller's registered devices.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct ListDevices;

#[derive(Deserialize)]
pub struct Input {}

#[derive(Serialize)]
pub struct Output {
    devices: Vec<DeviceInfo>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceInfo {
    device_id: String,
    device_name: String,
    #[serde(rename = "deviceUUID", skip_serializing_if = "Option::is_none")]
    device_uuid: Option<String>,
    credential_did: String,
    #[serde(serialize_with = "datetime")]
    last_seen_at: DateTime<Utc>,
    #[serde(serialize_with = "datetime")]
    registered_at: DateTime<Utc>,
    key_package_count: i64,
}

impl Endpoint for ListDevices {
    const LEXICON: &'static str = include_str!("list_devices.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, _: Input) -> Result<Output, Error> {
        let devices = app.store.reader().await?.devices(&caller.did, app.clock.now()).await?;
        let devices = devices.into_iter().map(|device| DeviceInfo {
            credential_did: format!("{}#{}", caller.did, device.id),
            device_id: device.id,
            device_name: device.name,
            device_uuid: device.uuid,
            last_seen_at: device.last_seen_at,
            registered_at: device.registered_at,
            key_package_count: device.key_packages,
        });
        Ok(Output { devices: devices.collect() })
    }
}
