//! addMembers: a member adds others, with or without the commit that adds them to the group.

use serde::Deserialize;

use crate::api::fields::{self, Key, KeyPackageHash, ServerIncarnation};
use crate::api::submission::{self, MAX_DIDS, Output, Submission};
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::Fingerprint;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

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

impl EpochProcedure for AddMembers {
    const LEXICON: &'static str = include_str!("add_members.json");
    const ERRORS: &'static [Code] = &[
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
        if input.did_list.is_empty() {
            return Err(Code::InvalidRequest.because("didList must not be empty"));
        }
        submission::check_added(&input.did_list, "didList")?;
        let key_packages = fields::key_package_hashes(input.key_package_hashes, MAX_DIDS)?;
        let submission = Submission {
            method: AddMembers::METHOD,
            fingerprint: Fingerprint::default()
                .text(Some(input.convo_id.as_str()))
                .list(input.did_list.iter().map(|did| did.as_str().as_bytes()))
                .field(input.welcome_message.as_ref().map(|welcome| welcome.0.as_slice()))
                .list(key_packages.iter().map(|(_, hash)| hash.as_slice()))
                .field(input.commit.as_ref().map(|commit| commit.0.as_slice())),
            convo_id: input.convo_id,
            added: input.did_list,
            removed: Vec::new(),
            commit: input.commit,
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
