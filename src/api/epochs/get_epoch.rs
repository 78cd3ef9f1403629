//! blue.catbird.mls.getEpoch: where a conversation stands.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
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
    current_epoch: i64,
}

impl Endpoint for GetEpoch {
    const NSID: &'static str = "blue.catbird.mls.getEpoch";
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        // Who may know is always asked of the database, where a removal is seen at once.
        let member = app.store.reader().await?.membership(&input.convo_id, &caller.did).await?;
        let remembered = app.serializer.remembered_epoch(&input.convo_id).await?;
        // An actor may not have heard of what another replica wrote; an epoch only ever grows.
        let current_epoch = remembered.map_or(member.at.epoch, |epoch| epoch.max(member.at.epoch));
        Ok(Output { current_epoch, convo_id: input.convo_id })
    }
}
