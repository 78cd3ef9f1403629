//! submitCommit: a member advances the epoch, with or without changes of the roster.

use serde::Deserialize;

use crate::api::fields::{self, Key, KeyPackageHash, ServerIncarnation};
use crate::api::submission::{self, MAX_DIDS, Output, Submission};
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::Fingerprint;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

pub struct SubmitCommit;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    commit: LexBytes,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_DIDS>", alias = "added_dids")]
    added_dids: Vec<Did>,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_DIDS>", alias = "removed_dids")]
    removed_dids: Vec<Did>,
    #[serde(alias = "welcome_message")]
    welcome_message: Option<LexBytes>,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_DIDS>", alias = "key_package_hashes")]
    key_package_hashes: Vec<KeyPackageHash>,
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

impl EpochProcedure for SubmitCommit {
    const LEXICON: &'static str = include_str!("submit_commit.json");
    const ERRORS: &'static [Code] = &[
        Code::NotAuthorized,
        Code::TargetNotMember,
        Code::KeyPackageNotFound,
        Code::AlreadyMember,
        Code::TooManyMembers,
        Code::ServerRolledBack,
        Code::InvalidCommit,
        Code::InvalidWelcome,
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
        submission::check_added(&input.added_dids, "addedDids")?;
        if input.removed_dids.len() > MAX_DIDS {
            return Err(Code::InvalidRequest.because(format!("removedDids must have at most {MAX_DIDS} DIDs")));
        }
        fields::distinct(&input.removed_dids, "removedDids")?;
        if input.removed_dids.contains(&caller.did) {
            return Err(Code::InvalidRequest.because("removedDids must not name the caller; leaveConvo is for that"));
        }
        let key_packages = fields::key_package_hashes(input.key_package_hashes, MAX_DIDS)?;
        let submission = Submission {
            method: SubmitCommit::METHOD,
            fingerprint: Fingerprint::default()
                .text(Some(input.convo_id.as_str()))
                .field(Some(input.commit.0.as_slice()))
                .list(input.added_dids.iter().map(|did| did.as_str().as_bytes()))
                .list(input.removed_dids.iter().map(|did| did.as_str().as_bytes()))
                .field(input.welcome_message.as_ref().map(|welcome| welcome.0.as_slice()))
                .list(key_packages.iter().map(|(_, hash)| hash.as_slice())),
            convo_id: input.convo_id,
            added: input.added_dids,
            removed: input.removed_dids,
            commit: Some(input.commit),
            welcome: input.welcome_message,
            group_info: input.group_info,
            key_packages,
            key: input.idempotency_key,
            incarnation: input.server_incarnation,
            only_from_outside: false,
        };
        Ok(submission.run(app, caller).await?.into())
    }
}
