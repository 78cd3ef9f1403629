//! confirmWelcome: the caller reports that it joined with a Welcome, or failed to.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Count};
use crate::app::App;
use crate::commands;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::members;
use crate::store::welcomes::{self, WelcomeSelector, WelcomeState};
use crate::xrpc::{Caller, Endpoint, Kind};

const MAX_ERROR_DETAILS: usize = 1_024;

pub struct ConfirmWelcome;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    success: bool,
    #[serde(alias = "error_details")]
    error_details: Option<String>,
    #[serde(alias = "key_package_hash")]
    key_package_hash: Option<String>,
    /// The epoch from getWelcome. With it, a late retry does not confirm the next Welcome.
    epoch: Option<Count>,
    #[serde(alias = "device_id")]
    device_id: Option<String>,
}

#[derive(Serialize)]
pub struct Output {
    confirmed: bool,
}

impl Endpoint for ConfirmWelcome {
    const LEXICON: &'static str = include_str!("confirm_welcome.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::WelcomeNotFound];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let key_package_hash = input.key_package_hash.as_deref().map(fields::key_package_hash).transpose()?;
        let mut command = commands::ConfirmWelcome {
            convo_id: input.convo_id,
            caller: caller.did.clone(),
            success: input.success,
            error_details: fields::text(input.error_details, MAX_ERROR_DETAILS, Code::InvalidRequest, "errorDetails")?,
            which: WelcomeSelector {
                key_package_hash,
                epoch: input.epoch.map(|epoch| epoch.0),
                device_id: input.device_id.map(fields::device_id).transpose()?,
            },
        };
        // Confirms only the Welcome that is pending now: another may arrive while the command waits in the queue or for its lock.
        let reader = app.store.reader().await?;
        members::membership(&reader, &command.convo_id, &command.caller).await?;
        let state = welcomes::state(&reader, &command.convo_id, &command.caller, &command.which).await?;
        drop(reader);
        if let WelcomeState::Waits { epoch, devices } = state {
            // It would destroy the Welcomes of the other devices.
            if devices > 1 && command.which.key_package_hash.is_none() && command.which.device_id.is_none() {
                let message = "Welcomes wait for several of your devices; name keyPackageHash or deviceId";
                return Err(Code::InvalidRequest.because(message));
            }
            command.which.epoch = Some(epoch);
            app.serializer.run(command).await?;
        }
        Ok(Output { confirmed: true })
    }
}
