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
    let fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .text(Some(target.as_str()))
        .field(commit.as_ref().map(|commit| commit.bytes.as_slice()));
    let command = commands::LeaveConvo {
        convo_id: input.convo_id,
        caller: caller.did.clone(),
        target,
        commit,
        entry_id: app.new_id(),
        incarnation: input.server_incarnation.map(|seen| seen.0),
        idempotency: Idempotency::new(
            caller.did.clone(),
            LeaveConvo::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    };
    // Leaving costs no quota; a commit is stored.
    let charges = command.commit.as_ref().map(|commit| Charge::stored(&caller.did, commit.bytes.len(), 2));
    let held = app.quotas.reserve(charges.into_iter().collect());
    let accepted = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
    Ok(accepted.into())
}
