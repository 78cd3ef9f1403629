//! createConvo: a new conversation, with its first members and their Welcome.

use std::time::Duration;

use serde::Deserialize;

use crate::api::fields::{self, Count, Key, KeyPackageHash};
use crate::api::visible;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{self, Created, Fingerprint, Idempotency, Invitation};
use crate::error::{Code, Error};
use crate::ids::Did;
use crate::mls::{self, GroupInfo, MAX_INITIAL_EPOCH, Suite};
use crate::quotas::{Charge, Reservation};
use crate::store::convos::NewConvo;
use crate::wire::{ConvoMetadata, ConvoState, ConvoView, MemberView, StorageModel};
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum initial members, without the creator.
const MAX_INITIAL_MEMBERS: usize = 999;
/// Time for which a replica counts as one that serves, after its row was last written: four times the interval of that.
const REPLICA_TIME: Duration = Duration::from_secs(120);
const MAX_NAME: usize = 128;
const MAX_DESCRIPTION: usize = 512;

pub struct CreateConvo;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "group_id")]
    group_id: String,
    #[serde(alias = "cipher_suite")]
    cipher_suite: String,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_INITIAL_MEMBERS>", alias = "initial_members")]
    initial_members: Vec<Did>,
    #[serde(alias = "welcome_message")]
    welcome_message: Option<LexBytes>,
    #[serde(default, deserialize_with = "fields::list::<_, _, MAX_INITIAL_MEMBERS>", alias = "key_package_hashes")]
    key_package_hashes: Vec<KeyPackageHash>,
    #[serde(alias = "group_info")]
    group_info: Option<LexBytes>,
    metadata: Option<Metadata>,
    #[serde(alias = "storage_model")]
    storage_model: Option<StorageModel>,
    #[serde(alias = "current_epoch")]
    current_epoch: Option<Count>,
    #[serde(alias = "idempotency_key")]
    idempotency_key: Option<Key>,
}

#[derive(Deserialize)]
pub struct Metadata {
    name: Option<String>,
    description: Option<String>,
}

impl Endpoint for CreateConvo {
    const LEXICON: &'static str = include_str!("create_convo.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[
        Code::InvalidCipherSuite,
        Code::KeyPackageNotFound,
        Code::TooManyMembers,
        Code::ConvoAlreadyExists,
        Code::InvalidWelcome,
        Code::InvalidGroupInfo,
        Code::IdempotencyConflict,
        Code::StorageModelUnavailable,
    ];

    type Input = Input;
    type Output = ConvoView;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<ConvoView, Error> {
        let command = command(app, caller, input).await?;
        let (new, mut dids) = (command.new.clone(), vec![caller.did.clone()]);
        dids.extend(command.initial_members.iter().cloned());
        let held = async {
            if new.storage_model == StorageModel::Blob {
                refuse_during_upgrade(app).await?;
            }
            hold(app, &command).await
        };
        let held = held.await;
        let created = app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await?;
        Ok(view(created, new, dids))
    }
}

/// Refuses a conversation with bodies while a replica serves that would return its large messages without their ciphertexts. Its build
/// registers without the setting that came with bodies.
async fn refuse_during_upgrade(app: &App) -> Result<(), Error> {
    match app.store.reader().await?.replica_without("BLOB_STORE_URL", REPLICA_TIME).await? {
        false => Ok(()),
        true => Err(Code::StorageModelUnavailable.because(
            "a replica of an earlier version has served in the last minutes, which does not know the storage model blob",
        )),
    }
}

/// Reserves the quota that the command will use: a conversation, its bytes and its introductions.
async fn hold(app: &App, command: &commands::CreateConvo) -> Result<Reservation, Error> {
    let creator = &command.new.creator;
    let metadata = command.new.metadata.as_ref();
    let texts = metadata.into_iter().flat_map(|metadata| [&metadata.name, &metadata.description]).flatten();
    let bytes = texts.map(String::len).sum::<usize>() + command.invitation.bytes(&command.initial_members);
    let group_info = command.group_info.as_ref().map_or(0, |group_info| group_info.bytes.len());
    // The conversation, its metadata, its creator and the event, in addition to the rows of the invitation.
    let mut charges = vec![
        Charge::convo(creator),
        Charge::stored(
            creator,
            bytes + group_info,
            4 + usize::from(group_info > 0) + command.invitation.rows(command.initial_members.len()),
        ),
    ];
    charges.extend(app.quotas.stranger_charges(creator, &command.initial_members).await?);
    app.quotas.reserve(charges)
}

/// Returns the conversation as it was created, also to a repeated request.
fn view(created: Created, new: NewConvo, dids: Vec<Did>) -> ConvoView {
    let members: Vec<_> = dids
        .into_iter()
        .map(|did| MemberView {
            is_admin: did == new.creator,
            user_did: did.clone(),
            did,
            joined_at: created.created_at,
        })
        .collect();
    ConvoView {
        id: created.id,
        group_id: new.group_id,
        creator: new.creator,
        member_count: members.len() as i64,
        members,
        generation: 1,
        epoch: new.epoch,
        seq: 0,
        cipher_suite: new.cipher_suite,
        storage_model: new.storage_model,
        state: ConvoState::Active,
        created_at: created.created_at,
        last_message_at: None,
        unread_count: 0,
        metadata: new.metadata,
    }
}

async fn command(app: &App, caller: &Caller, input: Input) -> Result<commands::CreateConvo, Error> {
    let group_id = fields::group_id(&input.group_id, "groupId")?;
    let suite = Suite::named(&input.cipher_suite)?;
    if input.initial_members.len() > MAX_INITIAL_MEMBERS {
        return Err(Code::TooManyMembers
            .because(format!("initialMembers must have at most {MAX_INITIAL_MEMBERS} DIDs; add the others later")));
    }
    fields::distinct(&input.initial_members, "initialMembers")?;
    let metadata = input.metadata.map(metadata).transpose()?;
    let welcome = fields::welcome(input.welcome_message).await?;
    welcome.as_ref().map_or(Ok(()), |welcome| welcome.suite.check(suite))?;
    let welcome = welcome.map(|welcome| welcome.bytes);
    // A Welcome only exists after a commit, so a creator that sends one is in epoch 1 unless it says otherwise.
    let epoch = input.current_epoch.map_or(i64::from(welcome.is_some()), |epoch| epoch.0);
    if epoch > MAX_INITIAL_EPOCH {
        return Err(Code::InvalidRequest.because(format!("currentEpoch must be at most {MAX_INITIAL_EPOCH}")));
    }
    let key_packages = fields::key_package_hashes(input.key_package_hashes, MAX_INITIAL_MEMBERS)?;

    let fingerprint = Fingerprint::default()
        .text(Some(&group_id))
        .text(Some(suite.name))
        .list(input.initial_members.iter().map(|did| did.as_str().as_bytes()))
        .field(welcome.as_deref())
        .list(key_packages.iter().map(|(_, hash)| hash.as_slice()))
        .text(metadata.as_ref().and_then(|metadata| metadata.name.as_deref()))
        .text(metadata.as_ref().and_then(|metadata| metadata.description.as_deref()))
        .number(Some(epoch));
    // A request without one keeps the fingerprint that earlier builds computed.
    let fingerprint = match &input.group_info {
        Some(group_info) => fingerprint.field(Some(&group_info.0)),
        None => fingerprint,
    };
    let fingerprint = match input.storage_model.unwrap_or_default() {
        StorageModel::Database => fingerprint,
        StorageModel::Blob => fingerprint.text(Some("blob")),
    };
    let group_info = match input.group_info {
        Some(bytes) => Some(first_group_info(app, caller, bytes, &group_id, suite, epoch).await?),
        None => None,
    };
    let mut initial_members = input.initial_members;
    initial_members.retain(|did| *did != caller.did);
    // The creator may invite its own other devices.
    let is_own = |did: &Did| *did == caller.did;
    let new_id = || app.new_id::<String>();
    let invitation = Invitation::new(&initial_members, is_own, welcome, key_packages, new_id, app.clock.now())?;
    visible::check_recipients(app, &invitation).await?;
    Ok(commands::CreateConvo {
        id: app.new_id(),
        invitation,
        new: NewConvo {
            group_id,
            creator: caller.did.clone(),
            cipher_suite: suite.name.to_owned(),
            storage_model: input.storage_model.unwrap_or_default(),
            epoch,
            metadata,
        },
        initial_members,
        group_info,
        idempotency: Idempotency::new(
            caller.did.clone(),
            CreateConvo::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    })
}

/// Parses the GroupInfo of a new group, and checks that it is of this group and epoch, and signed by the caller.
async fn first_group_info(
    app: &App,
    caller: &Caller,
    bytes: LexBytes,
    group_id: &str,
    suite: Suite,
    epoch: i64,
) -> Result<GroupInfo, Error> {
    let group_info = mls::parse_large(bytes.0, GroupInfo::parser(app.config.mls_validation)).await?;
    if !group_info.frame.belongs_to(group_id) {
        return Err(Code::InvalidGroupInfo.because("groupInfo is of another group than groupId names"));
    }
    group_info.check(suite, epoch, &caller.did)?;
    Ok(group_info)
}

fn metadata(given: Metadata) -> Result<ConvoMetadata, Error> {
    Ok(ConvoMetadata {
        name: fields::text(given.name, MAX_NAME, Code::InvalidRequest, "metadata.name")?,
        description: fields::text(given.description, MAX_DESCRIPTION, Code::InvalidRequest, "metadata.description")?,
    })
}
