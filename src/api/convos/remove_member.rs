//! removeMember: the admin removes another member, or any member commits the removal of one that has left.

use serde::{Deserialize, Serialize};

use crate::api::departure::Departure;
use crate::api::fields::{self, Key, ServerIncarnation};
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::Accepted;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

/// Maximum bytes of `reason`.
const MAX_REASON: usize = 500;

pub struct RemoveMember;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "target_did")]
    target_did: Did,
    commit: Option<LexBytes>,
    /// Checked and not stored.
    reason: Option<String>,
    #[serde(alias = "group_info")]
    group_info: Option<LexBytes>,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
    /// The last incarnation of the database that the caller received.
    #[serde(alias = "server_incarnation")]
    server_incarnation: Option<ServerIncarnation>,
    /// Form of the reply to a caller in another epoch.
    #[serde(default)]
    conflict: Conflict,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    epoch_hint: i64,
    epoch: i64,
    seq: i64,
}

impl From<Accepted> for Output {
    fn from(accepted: Accepted) -> Self {
        let Accepted { generation, epoch, seq, .. } = accepted;
        Self { ok: true, generation, epoch_hint: epoch, epoch, seq }
    }
}

impl EpochProcedure for RemoveMember {
    const LEXICON: &'static str = include_str!("remove_member.json");
    const ERRORS: &'static [Code] = &[
        Code::TargetNotMember,
        Code::NotAuthorized,
        Code::ServerRolledBack,
        Code::InvalidCommit,
        Code::InvalidGroupInfo,
    ];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> &mut ConvoId {
        &mut input.convo_id
    }

    fn conflict(input: &Input) -> Conflict {
        input.conflict
    }

    async fn run(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        if input.target_did == caller.did {
            return Err(Code::InvalidRequest.because("targetDid must not be the caller; leaveConvo is for that"));
        }
        fields::text(input.reason, MAX_REASON, Code::InvalidRequest, "reason")?;
        let departure = Departure {
            method: RemoveMember::METHOD,
            convo_id: input.convo_id,
            target: input.target_did,
            commit: input.commit,
            proposal: None,
            group_info: input.group_info,
            key: input.idempotency_key,
            incarnation: input.server_incarnation,
        };
        Ok(departure.run(app, caller).await?.into())
    }
}
