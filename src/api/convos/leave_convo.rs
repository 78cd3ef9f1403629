//! leaveConvo: a member leaves, or the admin removes one.

use serde::Deserialize;

use crate::api::fields::{Key, ServerIncarnation};
use crate::api::group;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::quotas::Charge;
use crate::xrpc::{Caller, Conflict, ConflictResult, Endpoint, Kind, ReplyKind};

use super::add_members::Output;

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
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
    /// The last incarnation of the database that the caller received.
    #[serde(alias = "server_incarnation")]
    server_incarnation: Option<ServerIncarnation>,
    /// Form of the reply to a caller in another epoch.
    #[serde(default)]
    conflict: Conflict,
}

impl Endpoint for LeaveConvo {
    const LEXICON: &'static str = include_str!("leave_convo.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::TargetNotMember,
        Code::NotAuthorized,
        Code::LastMember,
        Code::EpochMismatch,
        Code::EpochExpired,
        Code::EpochAhead,
        Code::ServerRolledBack,
        Code::InvalidCommit,
        Code::InvalidProposal,
        Code::TooManyProposals,
        Code::IdempotencyConflict,
    ];

    type Input = Input;
    type Output = ConflictResult<Output>;

    fn bytes(judged: &ConflictResult<Output>) -> usize {
        judged.bytes()
    }

    fn reply_kind(judged: &ConflictResult<Output>) -> ReplyKind {
        judged.reply_kind()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<ConflictResult<Output>, Error> {
        let conflict = input.conflict;
        conflict.report(Self::NSID, leave(app, caller, input).await)
    }
}

async fn leave(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
    let commit = group::commit(app, caller, &input.convo_id, input.commit).await?;
    let target = input.target_did.unwrap_or_else(|| caller.did.clone());
    if let Some((commit, _)) = &commit {
        commit.check_removal(&caller.did, target != caller.did, app.config.mls_validation)?;
    }
    let commit = commit.map(|(commit, _)| commit);
    if input.proposal.is_some() && (commit.is_some() || target != caller.did) {
        return Err(Code::InvalidRequest.because("proposal is for a caller that leaves by itself, without a commit"));
    }
    let proposal = match input.proposal {
        None => None,
        Some(bytes) => Some(group::proposal(app, caller, &input.convo_id, bytes).await?),
    };
    if let Some(proposal) = &proposal {
        proposal.check_departure(app.config.mls_validation)?;
    }
    let fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .text(Some(target.as_str()))
        .field(commit.as_ref().map(|commit| commit.bytes.as_slice()));
    // Keys of requests without a proposal keep their fingerprints.
    let fingerprint = match &proposal {
        None => fingerprint,
        Some(proposal) => fingerprint.field(Some(&proposal.bytes)),
    };
    let command = commands::LeaveConvo {
        convo_id: input.convo_id,
        caller: caller.did.clone(),
        target,
        commit,
        proposal: proposal.map(|proposal| group::proposal_entry(app, caller, proposal)),
        entry_id: app.new_id(),
        incarnation: input.server_incarnation.map(|seen| seen.0),
        idempotency: Idempotency::new(
            caller.did.clone(),
            LeaveConvo::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    };
    // Leaving costs no quota; a commit or a proposal is stored.
    let stored = command.commit.as_ref().map(|commit| commit.bytes.len());
    let stored = stored.or(command.proposal.as_ref().map(|proposal| proposal.ciphertext.len()));
    let charges = stored.map(|bytes| Charge::stored(&caller.did, bytes, 2));
    let held = app.quotas.reserve(charges.into_iter().collect());
    let accepted = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
    Ok(accepted.into())
}
