//! completePendingDeviceAddition: reports whether a commit has added the device. The method itself changes nothing.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Count};
use crate::app::App;
use crate::error::{Code, Error};
use crate::store::device_additions;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct CompletePendingDeviceAddition;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "pending_addition_id")]
    pending_addition_id: String,
    /// The commit has decided already.
    #[serde(rename = "newEpoch", alias = "new_epoch")]
    _new_epoch: Option<Count>,
}

#[derive(Serialize)]
pub struct Output {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

impl Endpoint for CompletePendingDeviceAddition {
    const LEXICON: &'static str = include_str!("complete_pending_device_addition.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let id = fields::addition_id(input.pending_addition_id)?;
        let addition = device_additions::find(&app.store.reader().await?, &id, &caller.did).await?;
        let error = match addition {
            Some(addition) if addition.completed => None,
            Some(_) => Some("no accepted commit has used a key package of this device yet"),
            None => Some("there is no such addition in your conversations"),
        };
        Ok(Output { success: error.is_none(), error })
    }
}
