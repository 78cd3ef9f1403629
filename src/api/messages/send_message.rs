//! sendMessage: a member sends an application message.

use actix_web::web::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::fields::{self, Count, Generation, Key, ServerIncarnation};
use crate::api::group;
use crate::app::App;
use crate::bodies::MIN_BODY_BYTES;
use crate::bytes::LexBytes;
use crate::commands::{self, Fingerprint, Idempotency};
use crate::error::{Code, Error};
use crate::ids::{BlobId, ConvoId, Did, EntryId};
use crate::mls::{self, MAX_MLS_BYTES};
use crate::quotas::Charge;
use crate::store::blobs::MAX_REFERENCES;
use crate::store::messages::{AppMessage, NewBody};
use crate::wire::{StorageModel, datetime};
use crate::xrpc::{Caller, Conflict, Endpoint, EpochProcedure};

const MAX_EMBED_TYPE: usize = 256;
const MAX_EMBED_URI: usize = 8_192;

pub struct SendMessage;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    ciphertext: LexBytes,
    epoch: Count,
    generation: Option<Generation>,
    #[serde(alias = "sender_did")]
    sender_did: Option<Did>,
    #[serde(alias = "msg_id")]
    msg_id: Option<EntryId>,
    #[serde(alias = "embed_type")]
    embed_type: Option<String>,
    #[serde(alias = "embed_uri")]
    embed_uri: Option<String>,
    /// Blobs that the message refers to.
    blobs: Option<Vec<BlobId>>,
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
    message_id: EntryId,
    #[serde(serialize_with = "datetime")]
    received_at: DateTime<Utc>,
    seq: i64,
    epoch: i64,
}

impl EpochProcedure for SendMessage {
    const LEXICON: &'static str = include_str!("send_message.json");
    const ERRORS: &'static [Code] = &[
        Code::NotAuthorized,
        Code::InvalidAsset,
        Code::InvalidMessage,
        Code::BlobNotFound,
        Code::ServerRolledBack,
        Code::MessageTooLarge,
        Code::BlobStoreUnavailable,
        Code::MessageUnconfirmed,
    ];

    /// Messages are written in batches; no single message takes a connection.
    const NEEDS_SLOT: bool = false;

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
        let message = &command.message;
        let embed = [&message.embed_type, &message.embed_uri].into_iter().flatten().map(String::len).sum::<usize>();
        // A message that was accepted before this limit existed is still recognised as repeated.
        let held = match message.ciphertext.len() > MAX_MLS_BYTES {
            true => Err(Code::MessageTooLarge.because(format!("ciphertext must have at most {MAX_MLS_BYTES} bytes"))),
            false => app.quotas.reserve(vec![Charge::stored(&caller.did, message.ciphertext.len() + embed, 1)]),
        };
        let run = async |command| app.serializer.run(store_body(app, command).await?).await;
        let sent = app.quotas.run_reserved(held, command, run).await?;
        Ok(Output { message_id: sent.id, received_at: sent.received_at, seq: sent.seq, epoch: sent.epoch })
    }
}

async fn command(app: &App, caller: &Caller, input: Input) -> Result<commands::SendMessage, Error> {
    if input.sender_did.as_ref().is_some_and(|sender| *sender != caller.did) {
        return Err(Code::NotAuthorized.because("senderDid must be the token's issuer"));
    }
    let ciphertext = input.ciphertext.0;
    if ciphertext.is_empty() {
        return Err(Code::InvalidMessage.because("ciphertext must not be empty"));
    }
    let embed_type = fields::text(input.embed_type, MAX_EMBED_TYPE, Code::InvalidAsset, "embedType")?;
    let embed_uri = fields::text(input.embed_uri, MAX_EMBED_URI, Code::InvalidAsset, "embedUri")?;
    if embed_uri.as_deref().is_some_and(|uri| !is_uri(uri)) {
        return Err(Code::InvalidAsset.because("embedUri must be a URI with a scheme"));
    }
    let blobs = blobs(input.blobs.unwrap_or_default())?;
    let epoch = input.epoch.0;
    let mut generation = input.generation.map(|generation| generation.0);
    if let Some(frame) = mls::check_application(&ciphertext, epoch)? {
        let group = group::check(app, caller, &input.convo_id, &frame, Code::InvalidMessage).await?;
        if generation.is_some_and(|given| given != group.generation) {
            return Err(Code::InvalidMessage.because("the message's MLS group is of another generation"));
        }
        generation = Some(group.generation);
    }
    let fingerprint = Fingerprint::default()
        .text(Some(input.convo_id.as_str()))
        .field(Some(&ciphertext))
        .number(Some(epoch))
        .text(input.msg_id.as_ref().map(EntryId::as_str))
        .text(embed_type.as_deref())
        .text(embed_uri.as_deref());
    // Without blobs it is the fingerprint of builds that know none.
    let fingerprint = blobs.iter().fold(fingerprint, |fingerprint, blob| fingerprint.text(Some(blob.as_str())));
    Ok(commands::SendMessage {
        convo_id: input.convo_id,
        has_own_id: input.msg_id.is_some(),
        blobs,
        message: AppMessage {
            id: input.msg_id.unwrap_or_else(|| app.new_id()),
            sender: caller.did.clone(),
            generation,
            epoch,
            ciphertext,
            body: None,
            embed_type,
            embed_uri,
            proposal_hash: None,
        },
        window: app.config.message_epoch_window,
        incarnation: input.server_incarnation.map(|seen| seen.0),
        idempotency: Idempotency::new(
            caller.did.clone(),
            SendMessage::METHOD,
            input.idempotency_key.map(|key| key.0),
            fingerprint,
        ),
    })
}

/// Puts the ciphertext of a large message into the blob store, if its conversation has it there. A message that would be refused keeps its
/// ciphertext; if it is accepted after all, the ciphertext is in the database.
async fn store_body(app: &App, mut command: commands::SendMessage) -> Result<commands::SendMessage, Error> {
    if command.message.ciphertext.len() < MIN_BODY_BYTES {
        return Ok(command);
    }
    app.serializer.refuse_stranger(&command.convo_id, &command.message.sender).await?;
    let model = app.store.reader().await?.storage_model(&command.convo_id).await?;
    let id = BlobId::random().map_err(Error::internal)?;
    if model == StorageModel::Database || !app.store.transact(command.begin_body(id.clone())).await? {
        return Ok(command);
    }
    let bytes = Bytes::from(std::mem::take(&mut command.message.ciphertext));
    let size = i32::try_from(bytes.len()).map_err(Error::internal)?;
    let sha256 = Sha256::digest(&bytes).into();
    app.bodies.put(&id, bytes).await?;
    command.message.body = Some(NewBody { id, size, sha256 });
    Ok(command)
}

/// Returns the blobs in ascending order.
fn blobs(mut blobs: Vec<BlobId>) -> Result<Vec<BlobId>, Error> {
    if blobs.len() > MAX_REFERENCES {
        return Err(Code::InvalidRequest.because(format!("blobs must name at most {MAX_REFERENCES} blobs")));
    }
    blobs.sort_unstable();
    match blobs.is_sorted_by(|one, next| one < next) {
        true => Ok(blobs),
        false => Err(Code::InvalidRequest.because("blobs must not name a blob twice")),
    }
}

/// A scheme, a colon and something after it, without spaces (the lexicon's format `uri`).
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
        && !rest.is_empty()
        && !rest.contains(|c: char| c.is_whitespace() || c.is_control())
}
