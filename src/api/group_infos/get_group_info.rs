//! getGroupInfo: the GroupInfo of the epoch that the conversation is in. Without one, the members are asked for it.

use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::bytes::to_base64;
use crate::commands::RequestGroupInfo;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, ServerIncarnation};
use crate::xrpc::{Caller, Endpoint, Kind};

/// Time until the caller should ask again, in milliseconds: members that are online have replied by then.
const RETRY_AFTER_MS: u64 = 2_000;

pub struct GetGroupInfo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    group_info: String,
    epoch: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_incarnation: Option<ServerIncarnation>,
}

impl Endpoint for GetGroupInfo {
    const LEXICON: &'static str = include_str!("get_group_info.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::GroupInfoUnavailable];
    /// It may ask the members.
    const READS: bool = false;

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    fn bytes(found: &Output) -> usize {
        found.group_info.len()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id } = input;
        let found = app.store.reader().await?.group_info(&convo_id, &caller.did).await?;
        if let Some(bytes) = found.bytes {
            let (group_info, server_incarnation) = (to_base64(&bytes), found.incarnation);
            return Ok(Output { group_info, epoch: found.epoch, server_incarnation });
        }
        if !found.is_requested {
            app.store.transact(RequestGroupInfo { convo_id, caller: caller.did.clone() }).await?;
        }
        let mut error = Code::GroupInfoUnavailable
            .because(format!("there is no GroupInfo of epoch {}; the members have been asked for one", found.epoch));
        error.details.server_epoch = Some(found.epoch);
        error.details.server_incarnation = found.incarnation;
        error.details.retry_after_ms = Some(RETRY_AFTER_MS);
        Err(error)
    }
}
