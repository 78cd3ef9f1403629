//! leaveConvo: a member leaves, the admin removes one, or any member commits the removal of one that has left.

use serde::Deserialize;

use crate::api::departure::Departure;
use crate::api::fields::{Key, ServerIncarnation};
use crate::api::group;
use crate::api::submission::Output;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

pub struct LeaveConvo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "target_did")]
    target_did: Option<Did>,
    commit: Option<LexBytes>,
    proposal: Option<LexBytes>,
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

impl EpochProcedure for LeaveConvo {
    const LEXICON: &'static str = include_str!("leave_convo.json");
    const ERRORS: &'static [Code] = &[
        Code::TargetNotMember,
        Code::NotAuthorized,
        Code::LastMember,
        Code::ServerRolledBack,
        Code::InvalidCommit,
        Code::InvalidProposal,
        Code::TooManyProposals,
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
        let target = input.target_did.unwrap_or_else(|| caller.did.clone());
        if input.proposal.is_some() && (input.commit.is_some() || target != caller.did) {
            return Err(
                Code::InvalidRequest.because("proposal is for a caller that leaves by itself, without a commit")
            );
        }
        let proposal = match input.proposal {
            None => None,
            Some(bytes) => Some(group::proposal(app, caller, &input.convo_id, bytes).await?),
        };
        if let Some((proposal, _)) = &proposal {
            proposal.check_departure(app.config.mls_validation)?;
        }
        let departure = Departure {
            method: LeaveConvo::METHOD,
            convo_id: input.convo_id,
            target,
            commit: input.commit,
            proposal,
            group_info: input.group_info,
            key: input.idempotency_key,
            incarnation: input.server_incarnation,
        };
        Ok(departure.run(app, caller).await?.into())
    }
}
