//! getEpoch: the current epoch of a conversation.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, ServerIncarnation};
use crate::store::members;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetEpoch;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    convo_id: ConvoId,
    generation: i64,
    current_epoch: i64,
    /// Incarnation of the database that the epoch was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_incarnation: Option<ServerIncarnation>,
}

impl Endpoint for GetEpoch {
    const LEXICON: &'static str = include_str!("get_epoch.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        // Always read from the database, which shows a removal, or a failover that lost epochs, at once.
        let member = members::membership(&app.store.reader().await?, &input.convo_id, &caller.did).await?;
        let (generation, current_epoch, server_incarnation) = (member.generation, member.at.epoch, member.incarnation);
        Ok(Output { convo_id: input.convo_id, generation, current_epoch, server_incarnation })
    }
}
