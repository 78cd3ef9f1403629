//! Bodies: ciphertexts of large messages, which a conversation of the storage model `blob` keeps in the blob store. A body is put there before
//! its message is sent, and read from there when the message is written to a client: by a page, a stream, a mailbox or an export. So neither the
//! database nor the event tail waits for the blob store, and entries without a body take no part in this.
//!
//! Everybody who needs a body at the same time shares one read of it, and what was put or read is kept for a moment.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use hyper::body::Bytes;
use moka::future::Cache;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{Code, Error};
use crate::ids::BlobId;
use crate::objects::Objects;
use crate::store::blobs::object;
use crate::timing;
use crate::wire::{Body, MessageView};

/// Size in bytes from which a ciphertext is a body, if its conversation has bodies.
pub const MIN_BODY_BYTES: usize = 64 * 1024;
/// Maximum size of all bodies that are kept.
const MAX_KEPT_BYTES: u64 = 32 * 1024 * 1024;
/// Time for which a body is kept.
const KEPT_TIME: Duration = Duration::from_secs(30);
/// Maximum size of all bodies that are being read, in KiB.
const MAX_READ_KIB: u32 = 32 * 1024;
/// Maximum time of a read, the wait for its turn included.
pub const READ_TIME: Duration = Duration::from_secs(10);
/// Bodies of one page that are read at once.
const MAX_AT_ONCE: usize = 4;

/// Bodies of this process. Cheap to clone.
#[derive(Clone)]
pub struct Bodies(Arc<Inner>);

struct Inner {
    objects: Objects,
    kept: Cache<BlobId, Bytes>,
    reads: Semaphore,
    runtime: Handle,
}

impl Bodies {
    /// Reads are made in tasks of `runtime`.
    pub fn new(objects: Objects, runtime: Handle) -> Self {
        let kept = Cache::builder()
            .max_capacity(MAX_KEPT_BYTES)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX))
            .time_to_live(KEPT_TIME)
            .build();
        Self(Arc::new(Inner { objects, kept, reads: Semaphore::new(MAX_READ_KIB as usize), runtime }))
    }

    /// Puts a body into the blob store. Errors: those of [`Objects::put`].
    pub async fn put(&self, id: &BlobId, bytes: Bytes) -> Result<(), Error> {
        self.0.objects.put(&object(id), bytes.clone()).await?;
        // Its readers are about to ask for it.
        self.0.kept.insert(id.clone(), bytes).await;
        Ok(())
    }

    /// Reads the body of a message, if it has one. Errors: `BlobStoreUnavailable`.
    pub async fn fill(&self, message: &MessageView) -> Result<(), Error> {
        match message.ciphertext.missing() {
            Some(body) => self.read(body).await,
            None => Ok(()),
        }
    }

    /// Reads the bodies of messages. Errors: `BlobStoreUnavailable`.
    pub async fn fill_all(&self, messages: &[MessageView]) -> Result<(), Error> {
        let missing = messages.iter().filter_map(|message| message.ciphertext.missing());
        let reads = stream::iter(missing.map(|body| Ok(self.read(body))));
        reads.try_for_each_concurrent(MAX_AT_ONCE, |read| read).await
    }

    async fn read(&self, body: &Body) -> Result<(), Error> {
        let reading = self.0.kept.try_get_with_by_ref(&body.id, self.begin(body.id.clone(), body.size));
        match timing::within(READ_TIME, reading).await {
            Ok(Ok(bytes)) => {
                body.fill(bytes);
                Ok(())
            }
            Ok(Err(failed)) => Err((*failed).clone()),
            Err(_) => Err(unavailable()),
        }
    }

    /// Reads a body in a task of its own: others may wait for it who have more time than the request that began it.
    async fn begin(&self, id: BlobId, size: usize) -> Result<Bytes, Error> {
        let inner = self.0.clone();
        let reading = self.0.runtime.spawn(async move {
            tokio::time::timeout(READ_TIME, inner.read(&id, size)).await.unwrap_or_else(|_| Err(unavailable()))
        });
        reading.await.map_err(Error::internal)?
    }
}

impl Inner {
    async fn read(&self, id: &BlobId, size: usize) -> Result<Bytes, Error> {
        let kib = u32::try_from(size / 1024 + 1).unwrap_or(MAX_READ_KIB).min(MAX_READ_KIB);
        let _turn = self.reads.acquire_many(kib).await.map_err(Error::internal)?;
        let reading = self.objects.read(&object(id), None).await?;
        let Some(mut reading) = reading.filter(|reading| reading.size == size as u64) else {
            tracing::error!(
                "the blob store does not have the body of a message; catbird-server check lists such blobs"
            );
            return Err(unavailable());
        };
        let mut bytes = Vec::with_capacity(size);
        while let Some(piece) = reading.stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.into())
    }
}

fn unavailable() -> Error {
    Code::BlobStoreUnavailable.because("the ciphertext of a message cannot be read at present; try again")
}
