//! addMembers: a member adds others, with or without the commit that adds them to the group.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Key, KeyPackageHash, ServerIncarnation};
use crate::api::group;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency, Invitation};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::quotas::{Charge, Reservation};
use crate::xrpc::{Caller, Conflict, ConflictResult, Endpoint, Kind, ReplyKind};

/// Maximum DIDs in one request.
const MAX_DIDS: usize = 999;

pub struct AddMembers;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(deserialize_with = "fields::list::<_, _, MAX_DIDS>", alias = "did_list")]
    did_list: Vec<Did>,
    commit: Option<LexBytes>,
    #[serde(alias = "welcome_message")]
    welcome_message: Option<LexBytes>,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_DIDS>", alias = "key_package_hashes")]
    key_package_hashes: Vec<KeyPackageHash>,
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
    success: bool,
    new_epoch: i64,
    epoch: i64,
    seq: i64,
}

impl From<commands::Accepted> for Output {
    fn from(accepted: commands::Accepted) -> Self {
        Self { success: true, new_epoch: accepted.epoch, epoch: accepted.epoch, seq: accepted.seq }
    }
}

impl Endpoint for AddMembers {
    const LEXICON: &'static str = include_str!("add_members.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::KeyPackageNotFound,
        Code::AlreadyMember,
        Code::TooManyMembers,
        Code::EpochMismatch,
        Code::EpochExpired,
        Code::EpochAhead,
        Code::ServerRolledBack,
        Code::InvalidCommit,
        Code::InvalidWelcome,
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
        conflict.report(Self::NSID, add(app, caller, input).await)
    }
}

async fn add(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
    let command = command(app, caller, input).await?;
    let held = hold(app, &command).await;
    let accepted = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
    Ok(accepted.into())
}

/// Reserves the quota that the command will use: its bytes and its introductions. Strangers are refused before that, so the DIDs that
/// they name are not looked up.
async fn hold(app: &App, command: &commands::AddMembers) -> Result<Reservation, Error> {
    app.serializer.refuse_stranger(&command.convo_id, &command.caller).await?;
    let commit = command.commit.as_ref().map_or(0, |commit| commit.bytes.len());
    let bytes = commit + command.invitation.bytes(&command.dids);
    // The entry and the event, in addition to the rows of the invitation.
    let rows = 2 + command.invitation.rows(command.dids.len());
    let mut charges = vec![Charge::stored(&command.caller, bytes, rows)];
    charges.extend(app.quotas.stranger_charges(&command.caller, &command.dids).await?);
    app.quotas.reserve(charges)
}

async fn command(app: &App, caller: &Caller, input: Input) -> Result<commands::AddMembers, Error> {
    match input.did_list.len() {
        0 => return Err(Code::InvalidRequest.because("didList must not be empty")),
        1..=MAX_DIDS => {}
        _ => return Err(Code::TooManyMembers.because(format!("didList must have at most {MAX_DIDS} DIDs"))),
    }
    fields::distinct(&input.did_list, "didList")?;
    let key_packages = fields::key_package_hashes(input.key_package_hashes, MAX_DIDS)?;
    // Only a commit in the same request shows that the Welcome belongs to the epoch that was won.
    if input.welcome_message.is_some() && input.commit.is_none() {
        return Err(Code::InvalidWelcome.because("a Welcome needs its commit; send both in one request"));
    }
    let welcome = fields::welcome(input.welcome_message).await?;
    let fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .list(input.did_list.iter().map(|did| did.as_str().as_bytes()))
        .field(welcome.as_ref().map(|welcome| welcome.bytes.as_slice()))
        .list(key_packages.iter().map(|(_, hash)| hash.as_slice()));
    let new_id = || app.new_id::<String>();
    let (bytes, of_suite) = welcome.map(|welcome| (welcome.bytes, welcome.suite)).unzip();
    let invitation = Invitation::new(&input.did_list, bytes, key_packages, new_id, app.clock.now())?;
    // The conversation is checked last: any other refusal is the same for a stranger and for a member.
    let commit = group::commit(app, caller, &input.convo_id, input.commit).await?;
    if let Some((commit, group)) = &commit {
        commit.check_suite(*group)?;
        commit.check_additions(&caller.did, &input.did_list, app.config.mls_validation)?;
        of_suite.map_or(Ok(()), |suite| suite.check(*group))?;
    }
    let commit = commit.map(|(commit, _)| commit);
    let fingerprint = fingerprint.field(commit.as_ref().map(|commit| commit.bytes.as_slice()));
    Ok(commands::AddMembers {
        convo_id: input.convo_id,
        caller: caller.did.clone(),
        invitation,
        dids: input.did_list,
        commit,
        entry_id: app.new_id(),
        incarnation: input.server_incarnation.map(|seen| seen.0),
        idempotency: Idempotency::new(
            caller.did.clone(),
            AddMembers::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    })
}
