//! updateCursor: the caller has followed a conversation this far.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::commands;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct UpdateCursor;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    cursor: String,
}

#[derive(Serialize)]
pub struct Output {
    success: bool,
}

impl Endpoint for UpdateCursor {
    const LEXICON: &'static str = include_str!("update_cursor.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::InvalidCursor];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id, cursor } = input;
        app.store.transact(commands::UpdateCursor { convo_id, caller: caller.did.clone(), cursor }).await?;
        Ok(Output { success: true })
    }
}
