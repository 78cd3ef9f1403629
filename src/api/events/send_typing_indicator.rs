//! sendTypingIndicator: the caller types, or has stopped. The server notifies the other connected members and stores nothing.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::events::event::Typing;
use crate::ids::ConvoId;
use crate::store::members;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct SendTypingIndicator;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "is_typing")]
    is_typing: bool,
}

#[derive(Serialize)]
pub struct Output {
    success: bool,
}

impl Endpoint for SendTypingIndicator {
    const LEXICON: &'static str = include_str!("send_typing_indicator.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id, is_typing } = input;
        publish_typing(app, Typing { convo_id, did: caller.did.clone(), is_typing }).await?;
        Ok(Output { success: true })
    }
}

/// Notifies the other members, if the sender is a member and within its limit.
pub async fn publish_typing(app: &App, typing: Typing) -> Result<(), Error> {
    members::membership(&app.store.reader().await?, &typing.convo_id, &typing.did).await?;
    // After the membership check: a limit must tell strangers nothing.
    app.limits.admit_typing(&typing.did, &typing.convo_id)?;
    app.events.typing(typing);
    Ok(())
}
