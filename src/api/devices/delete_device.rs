//! deleteDevice: the caller deletes one of its devices.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Key};
use crate::app::App;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct DeleteDevice;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "device_id")]
    device_id: String,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    deleted: bool,
    key_packages_deleted: i64,
}

impl Endpoint for DeleteDevice {
    const LEXICON: &'static str = include_str!("delete_device.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::DeviceNotFound, Code::IdempotencyConflict];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let device_id = fields::device_id(input.device_id)?;
        let (key, fingerprint) =
            (input.idempotency_key.map(|key| key.0), Fingerprint::default().text(Some(&device_id)));
        let owner = caller.did.clone();
        let idempotency = Idempotency::new(owner.clone(), DeleteDevice::METHOD, key, fingerprint);
        let command = commands::DeleteDevice { owner, device_id: device_id.clone(), idempotency };
        let deleted = app.store.transact(command).await?;
        super::register_device::announce(app, caller, device_id).await;
        Ok(Output { deleted: true, key_packages_deleted: deleted.key_packages })
    }
}
