//! updateCursor: stores how far the caller has followed a conversation.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::app::App;
use crate::commands;
use crate::error::{Code, Error};
use crate::events::cursor::Sealed;
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

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id, cursor } = input;
        let (caller, sortable) = (caller.did.clone(), sortable(&cursor));
        app.store.transact(commands::UpdateCursor { convo_id, caller, cursor, sortable }).await?;
        Ok(Output { success: true })
    }
}

/// Returns a ULID, or the cursor of an event, in the spelling that sorts by time. Both begin with their time, so one order holds for all.
fn sortable(cursor: &str) -> Option<String> {
    match cursor.parse::<Ulid>() {
        Ok(ulid) => Some(ulid.to_string()),
        Err(_) => cursor.parse::<Sealed>().ok().map(|cursor| cursor.text().to_owned()),
    }
}
