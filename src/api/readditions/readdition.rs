//! readdition: a member that lost its state asks the others to add it to the MLS group again.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::commands::RequestReaddition;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct Readdition;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    requested: bool,
    active_members: i64,
}

impl Endpoint for Readdition {
    const LEXICON: &'static str = include_str!("readdition.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let request = RequestReaddition {
            convo_id: input.convo_id,
            caller: caller.did.clone(),
            id: app.new_id(),
            package: None,
            reason: None,
        };
        let requested = app.store.transact(request).await?;
        Ok(Output { requested: requested.others > 0, active_members: requested.others })
    }
}
