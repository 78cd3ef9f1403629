//! What the methods of blobs share: the beginning of an upload, its bytes on their way to the blob store, and the reply.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::app::App;
use crate::commands::BeginBlob;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::{BlobId, ConvoId};
use crate::quotas::Charge;
use crate::store::blobs::{MAX_BLOB_BYTES, NewBlob, StoredBlob, UploadLimits};
use crate::wire::datetime;
use crate::xrpc::{Caller, UploadBody};

/// `sha256`: a hash in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Hash(pub [u8; 32]);

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::decode_hash(&text).map(Self).ok_or("sha256 must have 64 hex digits")
    }
}

/// Reply that describes a blob whose bytes are all stored.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    blob_id: BlobId,
    size: i64,
    sha256: String,
    #[serde(serialize_with = "datetime")]
    expires_at: DateTime<Utc>,
}

impl Stored {
    pub fn new(blob_id: BlobId, stored: &StoredBlob) -> Self {
        let StoredBlob { bytes, sha256, expires_at } = stored;
        Self { blob_id, size: *bytes, sha256: hex::encode(sha256), expires_at: *expires_at }
    }
}

/// Checks the size of a blob.
pub fn size(bytes: u64) -> Result<i64, Error> {
    match i64::try_from(bytes) {
        Ok(0) => Err(Code::InvalidRequest.because("a blob must have at least one byte")),
        Ok(bytes @ 1..=MAX_BLOB_BYTES) => Ok(bytes),
        _ => Err(Code::BlobTooLarge.because(format!("a blob must have at most {MAX_BLOB_BYTES} bytes"))),
    }
}

/// Begins an upload for a conversation within the caller's quotas, and returns its id and when it expires.
pub async fn begin(
    app: &App,
    caller: &Caller,
    convo: ConvoId,
    bytes: i64,
    part_bytes: Option<i64>,
) -> Result<(BlobId, DateTime<Utc>), Error> {
    let id = BlobId::random().map_err(Error::internal)?;
    let blob = NewBlob { id: id.clone(), convo, owner: caller.did.clone(), bytes, part_bytes };
    let quotas = &app.config.quotas;
    let limit = |most: u64| i64::try_from(most).ok().filter(|most| *most > 0).unwrap_or(i64::MAX);
    let limits = UploadLimits { uploads: limit(quotas.blob_uploads), convo_bytes: limit(quotas.convo_blob_bytes) };
    app.serializer.refuse_stranger(&blob.convo, &caller.did).await?;
    let reservation = app.quotas.reserve(vec![Charge::blob(&caller.did, bytes.unsigned_abs())])?;
    let begun = app.store.transact(BeginBlob { blob, limits }).await;
    reservation.finish(begun.is_ok());
    Ok((id, begun?))
}

/// Passes the bytes of a request on to the blob store, and returns their SHA-256. At no time are more than a few pieces in memory.
pub async fn receive(app: &App, object: &str, mut body: UploadBody) -> Result<[u8; 32], Error> {
    let mut writer = app.objects.writer(object, body.length).await?;
    let mut hash = Sha256::new();
    while let Some(piece) = body.next().await? {
        hash.update(&piece);
        writer.write(piece).await?;
    }
    writer.finish().await?;
    Ok(hash.finalize().into())
}

/// Compares a hash with the one that the client has announced.
pub fn check(announced: Option<Hash>, sha256: &[u8; 32]) -> Result<(), Error> {
    match announced {
        Some(Hash(announced)) if announced != *sha256 => {
            let message = format!("the bytes that arrived have the SHA-256 {}", hex::encode(sha256));
            Err(Code::BlobMismatch.because(message))
        }
        _ => Ok(()),
    }
}
