//! updateGroupInfo: a member stores the GroupInfo of the epoch that the conversation is in.

use serde::{Deserialize, Serialize};

use crate::api::fields::Count;
use crate::api::group;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::quotas::Charge;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct UpdateGroupInfo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "group_info")]
    group_info: LexBytes,
    epoch: Count,
}

#[derive(Serialize)]
pub struct Output {
    updated: bool,
    epoch: i64,
}

impl Endpoint for UpdateGroupInfo {
    const LEXICON: &'static str = include_str!("update_group_info.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::EpochMismatch,
        Code::EpochExpired,
        Code::EpochAhead,
        Code::StaleGeneration,
        Code::InvalidGroupInfo,
    ];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let (group_info, group) =
            group::group_info(app, caller, &input.convo_id, input.group_info, input.epoch.0).await?;
        let held = app.quotas.reserve(vec![Charge::stored(&caller.did, group_info.bytes.len(), 1)])?;
        let command = commands::UpdateGroupInfo {
            convo_id: input.convo_id,
            caller: caller.did.clone(),
            generation: group.generation,
            group_info,
        };
        let stored = app.serializer.run(command).await;
        held.finish(stored.is_ok());
        Ok(Output { updated: true, epoch: stored? })
    }
}
