//! resetConvo: the caller replaces the MLS group of a conversation by another one.

use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Count, Generation, Key, KeyPackageHash};
use crate::api::group;
use crate::api::visible;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency, Invitation, Prior};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::mls::{self, Commit, GroupInfo, MAX_INITIAL_EPOCH, Suite};
use crate::quotas::Charge;
use crate::store::groups::NewGroup;
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

/// Maximum key packages of a Welcome.
const MAX_KEY_PACKAGES: usize = 9_990;

pub struct ResetConvo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    convo_id: ConvoId,
    prior: PriorInput,
    new_group_id: String,
    cipher_suite: Option<String>,
    current_epoch: Option<Count>,
    commit: Option<LexBytes>,
    welcome_message: Option<LexBytes>,
    group_info: Option<LexBytes>,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_KEY_PACKAGES>")]
    key_package_hashes: Vec<KeyPackageHash>,
    idempotency_key: Option<Key>,
    /// Form of the reply to a caller that lost.
    #[serde(default)]
    conflict: Conflict,
}

#[derive(Deserialize)]
struct PriorInput {
    generation: Generation,
    epoch: Count,
}

#[derive(Serialize)]
pub struct Output {
    success: bool,
    generation: i64,
    epoch: i64,
    seq: i64,
}

impl EpochProcedure for ResetConvo {
    const LEXICON: &'static str = include_str!("reset_convo.json");
    const ERRORS: &'static [Code] = &[
        Code::NotAuthorized,
        Code::ConvoAlreadyExists,
        Code::InvalidCipherSuite,
        Code::KeyPackageNotFound,
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
        let command = command(app, caller, input).await?;
        // The entry, the event, the group before, its id, and the rows of the invitation.
        let group_info = command.group_info.as_ref().map_or(0, |group_info| group_info.bytes.len());
        let bytes = group_info + 2 * command.new.id.len() + command.invitation.bytes(&[]);
        let charges =
            vec![Charge::convo(&caller.did), Charge::stored(&caller.did, bytes, 4 + command.invitation.rows(0))];
        let held = app.quotas.reserve(charges);
        let reset = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
        Ok(Output { success: true, generation: reset.generation, epoch: reset.epoch, seq: reset.seq })
    }
}

async fn command(app: &App, caller: &Caller, input: Input) -> Result<commands::ResetConvo, Error> {
    let group_id = fields::group_id(&input.new_group_id, "newGroupId")?;
    let key_packages = fields::key_package_hashes(input.key_package_hashes, MAX_KEY_PACKAGES)?;
    if input.welcome_message.is_some() == key_packages.is_empty() {
        let message = "welcomeMessage and keyPackageHashes, which names its recipients, come together";
        return Err(Code::InvalidRequest.because(message));
    }
    let welcome = fields::welcome(input.welcome_message).await?;
    let commit = match input.commit {
        None => None,
        Some(bytes) => Some(mls::parse_large(bytes.0, Commit::parse).await?),
    };
    let group_info = match input.group_info {
        None => None,
        Some(bytes) => Some(mls::parse_large(bytes.0, GroupInfo::parser(app.config.mls_validation)).await?),
    };
    let epoch = epoch(input.current_epoch, commit.as_ref(), welcome.is_some())?;
    let mut fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .number(Some(input.prior.generation.0))
        .number(Some(input.prior.epoch.0))
        .text(Some(&group_id))
        .text(input.cipher_suite.as_deref())
        .number(Some(epoch))
        .field(commit.as_ref().map(|commit| commit.bytes.as_slice()));
    fingerprint = fingerprint
        .field(welcome.as_ref().map(|welcome| welcome.bytes.as_slice()))
        .list(key_packages.iter().map(|(_, hash)| hash.as_slice()))
        .field(group_info.as_ref().map(|group_info| group_info.bytes.as_slice()));
    // The conversation is read last: any other refusal is the same for a stranger and for a member.
    app.serializer.refuse_stranger(&input.convo_id, &caller.did).await?;
    let suite = match &input.cipher_suite {
        Some(name) => Suite::named(name)?,
        None => app.store.reader().await?.suite(&input.convo_id).await?,
    };
    welcome.as_ref().map_or(Ok(()), |welcome| welcome.suite.check(suite))?;
    let mut recipients: Vec<Did> = key_packages.iter().map(|(owner, _)| owner.clone()).collect();
    recipients.sort_unstable();
    recipients.dedup();
    if let Some(commit) = &commit {
        check_commit(commit, &group_id, suite, epoch)?;
    }
    if let Some(group_info) = &group_info {
        if !group_info.frame.belongs_to(&group_id) {
            return Err(Code::InvalidGroupInfo.because("groupInfo is not of the new group"));
        }
        let checked = group_info.check(suite, epoch, &caller.did);
        group::for_member(app, caller, &input.convo_id, checked).await?;
    }
    let new_id = || app.new_id::<String>();
    let bytes = welcome.map(|welcome| welcome.bytes);
    let invitation = Invitation::new(&recipients, |_| false, bytes, key_packages, new_id, app.clock.now())?;
    group::for_member(app, caller, &input.convo_id, visible::check_recipients(app, &invitation).await).await?;
    Ok(commands::ResetConvo {
        convo_id: input.convo_id,
        caller: caller.did.clone(),
        prior: Prior { generation: input.prior.generation.0, epoch: input.prior.epoch.0 },
        new: NewGroup { id: group_id, suite, epoch, entry_id: app.new_id() },
        invitation,
        group_info,
        idempotency: Idempotency::new(
            caller.did.clone(),
            ResetConvo::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    })
}

/// Returns the epoch that the new group is in. A Welcome only exists after a commit.
fn epoch(given: Option<Count>, commit: Option<&Commit>, has_welcome: bool) -> Result<i64, Error> {
    let epoch = match (given, commit) {
        (Some(epoch), _) => epoch.0,
        (None, Some(commit)) => commit.frame.epoch + 1,
        (None, None) => i64::from(has_welcome),
    };
    match epoch <= MAX_INITIAL_EPOCH {
        true => Ok(epoch),
        false => Err(Code::InvalidRequest.because(format!("currentEpoch must be at most {MAX_INITIAL_EPOCH}"))),
    }
}

/// Checks that the commit leads the new group into its epoch.
fn check_commit(commit: &Commit, group_id: &str, suite: Suite, epoch: i64) -> Result<(), Error> {
    if !commit.frame.belongs_to(group_id) {
        return Err(Code::InvalidCommit.because("the commit's MLS group is not the new one"));
    }
    if commit.frame.epoch + 1 != epoch {
        return Err(Code::InvalidCommit.because(format!("the commit does not lead into epoch {epoch}")));
    }
    commit.check_suite(suite)
}
