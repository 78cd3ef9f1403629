//! getPendingDeviceAdditions: devices of members that are not in the groups of the caller's conversations yet.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::fields::Limit;
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum number of conversations that one request names.
const MAX_CONVOS: usize = 100;

pub struct GetPendingDeviceAdditions;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(default, alias = "convo_ids")]
    convo_ids: Vec<ConvoId>,
    #[serde(default)]
    limit: Limit,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    pending_additions: Vec<PendingAddition>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingAddition {
    id: String,
    convo_id: String,
    user_did: String,
    device_credential_did: String,
    device_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_name: Option<String>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_by: Option<String>,
    #[serde(serialize_with = "datetime")]
    created_at: DateTime<Utc>,
}

impl Endpoint for GetPendingDeviceAdditions {
    const LEXICON: &'static str = include_str!("get_pending_device_additions.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        if input.convo_ids.len() > MAX_CONVOS {
            return Err(Code::InvalidRequest.because(format!("convoIds must have at most {MAX_CONVOS} elements")));
        }
        let reader = app.store.reader().await?;
        let found = reader.pending_additions(&caller.did, &input.convo_ids, input.limit.0).await?;
        let pending = found.into_iter().map(|addition| PendingAddition {
            device_credential_did: format!("{}#{}", addition.owner, addition.device_id),
            id: addition.id,
            convo_id: addition.convo_id,
            user_did: addition.owner,
            device_id: addition.device_id,
            device_name: addition.name,
            status: if addition.claimed_by.is_some() { "in_progress" } else { "pending" },
            claimed_by: addition.claimed_by,
            created_at: addition.created_at,
        });
        Ok(Output { pending_additions: pending.collect() })
    }
}
