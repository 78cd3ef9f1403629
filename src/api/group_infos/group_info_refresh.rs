//! groupInfoRefresh: a member asks the others for a GroupInfo of the epoch that the conversation is in.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::commands::RequestGroupInfo;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GroupInfoRefresh;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    requested: bool,
    active_members: i64,
}

impl Endpoint for GroupInfoRefresh {
    const LEXICON: &'static str = include_str!("group_info_refresh.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let request = RequestGroupInfo { convo_id: input.convo_id, caller: caller.did.clone() };
        Ok(Output { requested: true, active_members: app.store.transact(request).await? })
    }
}
