//! The steps of an upload that write: its beginning, its parts, its completion, and its end without a blob. The bytes go to the blob store
//! between them. The row is written before the bytes, so a server that dies leaves no bytes that no row names.

use chrono::{DateTime, Utc};

use crate::error::{Code, Error, RETRY_AFTER_MS};
use crate::ids::{BlobId, Did};
use crate::store::blobs::{self, Exceeded, MessageBody, NewBlob, StoredBlob, UploadLimits};
use crate::store::{Abort, Transaction, Tx, members};

/// Time after which a conversation whose blobs have too many bytes may have room again: retention has deleted some of them.
const CONVO_RETRY_MS: u64 = 3_600_000;

/// An upload to begin.
#[derive(Debug)]
pub struct BeginBlob {
    pub blob: NewBlob,
    pub limits: UploadLimits,
}

impl Transaction for BeginBlob {
    const NAME: &'static str = "beginBlob";
    /// Time at which the upload expires.
    type Output = DateTime<Utc>;

    async fn execute(&self, tx: &Tx) -> Result<DateTime<Utc>, Abort> {
        members::membership(tx, &self.blob.convo, &self.blob.owner).await?;
        Ok(blobs::begin(tx, &self.blob, self.limits).await?.map_err(|exceeded| self.refusal(exceeded))?)
    }
}

impl BeginBlob {
    fn refusal(&self, exceeded: Exceeded) -> Error {
        let UploadLimits { uploads, convo_bytes } = self.limits;
        let (message, retry_after_ms) = match exceeded {
            Exceeded::Uploads(next_in) => (
                format!("you have {uploads} uploads that are not complete; complete or abort one of them"),
                u64::try_from(next_in.as_millis()).unwrap_or(u64::MAX).max(RETRY_AFTER_MS),
            ),
            Exceeded::ConvoBytes => {
                (format!("the blobs of this conversation may have {convo_bytes} bytes together"), CONVO_RETRY_MS)
            }
        };
        let mut error = Code::QuotaExceeded.because(message);
        error.details.retry_after_ms = Some(retry_after_ms);
        error
    }
}

/// The body of a message to begin.
#[derive(Debug)]
pub struct BeginBody(pub(super) MessageBody);

impl Transaction for BeginBody {
    const NAME: &'static str = "beginBody";
    /// False if the message would be refused now, or its conversation keeps all ciphertexts in the database.
    type Output = bool;

    async fn execute(&self, tx: &Tx) -> Result<bool, Abort> {
        blobs::begin_body(tx, &self.0).await
    }
}

/// A part whose bytes are about to arrive.
#[derive(Debug)]
pub struct BeginPart {
    pub id: BlobId,
    pub owner: Did,
    pub part: i32,
}

impl Transaction for BeginPart {
    const NAME: &'static str = "beginBlobPart";
    /// Size of the part in bytes.
    type Output = i64;

    async fn execute(&self, tx: &Tx) -> Result<i64, Abort> {
        let (bytes, part_bytes) = blobs::begin_part(tx, &self.id, &self.owner, self.part).await?;
        let size = blobs::part_size(bytes, part_bytes, self.part).ok_or_else(|| {
            Code::InvalidRequest
                .because(format!("part must be from 1 to {} in this upload", blobs::parts(bytes, part_bytes)))
        })?;
        Ok(size)
    }
}

/// A part whose bytes are stored.
#[derive(Debug)]
pub struct StorePart {
    pub id: BlobId,
    pub part: i32,
}

impl Transaction for StorePart {
    const NAME: &'static str = "storeBlobPart";
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        blobs::store_part(tx, &self.id, self.part).await
    }
}

/// A blob whose bytes are all stored.
#[derive(Debug)]
pub struct StoreBlob {
    pub id: BlobId,
    pub owner: Did,
    pub sha256: [u8; 32],
}

impl Transaction for StoreBlob {
    const NAME: &'static str = "storeBlob";
    type Output = StoredBlob;

    async fn execute(&self, tx: &Tx) -> Result<StoredBlob, Abort> {
        blobs::store(tx, &self.id, &self.owner, &self.sha256).await
    }
}

/// An upload to end without a blob.
#[derive(Debug)]
pub struct AbortBlob {
    pub id: BlobId,
    pub owner: Did,
}

impl Transaction for AbortBlob {
    const NAME: &'static str = "abortBlob";
    /// True if there was such an upload.
    type Output = bool;

    async fn execute(&self, tx: &Tx) -> Result<bool, Abort> {
        blobs::abort(tx, &self.id, &self.owner).await
    }
}
