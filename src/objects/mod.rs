//! Object storage: bytes under names, in a folder or in a bucket at a service with the API of S3 ([`config::BlobStore`]). It knows no
//! database, no conversation, and nothing of what the bytes are.
//!
//! Bytes are streamed both ways, in pieces of at most 64 KiB, so the memory of a transfer does not depend on the size of its
//! object. An object is visible when it is whole and durable, and not before. Each wait for the store has a limit, what can be repeated
//! is repeated, and what the store does wrong is [`Code::BlobStoreUnavailable`].
//!
//! [`config::BlobStore`]: crate::config::BlobStore
//! [`Code::BlobStoreUnavailable`]: crate::error::Code::BlobStoreUnavailable

mod bucket;
mod failure;
mod folder;
mod http;
mod inspection;
mod metrics;
mod reading;
#[cfg(test)]
mod tests;
mod upload;
mod writer;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hyper::body::Bytes;
use object_store::path::Path;
use reqwest::Url;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::BlobStore;
use crate::error::{Code, Error};
use crate::timing;

use bucket::Bucket;
use failure::{ATTEMPT_TIME, Failure, Log, OPERATION_TIME, attempts};
use folder::Folder;
use metrics::{Operation, Outcome};
use reading::Opened;
use upload::Upload;

pub use inspection::Refusal;
pub use metrics::ObjectMetrics;
pub use reading::Reading;
pub use writer::Writer;

/// Maximum size of a piece of an object in memory.
const PIECE: usize = 64 * 1024;
/// Objects that a service names in one page of a list.
const PAGE: usize = 1_000;
/// Maximum number of objects that are written or read at once.
pub const MAX_TRANSFERS: usize = 512;
/// Maximum time for which a transfer waits until another one ends.
const MAX_SLOT_WAIT: Duration = Duration::from_secs(2);
/// Time after which a store that takes no piece, or sends none, has failed.
pub const STALL_TIME: Duration = Duration::from_secs(5);
/// Pause before a copy that has failed at once is repeated.
const JOIN_PAUSE: Duration = Duration::from_millis(250);
/// Maximum time of a copy of objects into one.
const JOIN_TIME: Duration = Duration::from_secs(60);

/// The store cannot be used with these settings.
#[derive(Debug, thiserror::Error)]
#[error("BLOB_STORE_URL: {0}")]
pub struct OpenError(String);

/// Object storage. Cheap to clone.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

struct Inner {
    store: Store,
    transfers: Arc<Semaphore>,
    metrics: ObjectMetrics,
    log: Log,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: String,
    /// In bytes.
    pub size: u64,
    pub modified: DateTime<Utc>,
}

/// The kinds of stores.
#[derive(Debug, Clone)]
enum Store {
    Folder(Folder),
    Bucket(Bucket),
}

impl Store {
    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Opened>, Failure> {
        match self {
            Store::Folder(folder) => folder.read(name, range).await,
            Store::Bucket(bucket) => bucket.read(name, range).await,
        }
    }

    async fn delete(&self, name: &str) -> Result<(), Failure> {
        match self {
            Store::Folder(folder) => folder.delete(name).await,
            Store::Bucket(bucket) => bucket.delete(name).await,
        }
    }
}

impl Objects {
    /// Opens the store: creates a folder; of a service nothing is asked yet. Must be called inside the multi-threaded runtime that does
    /// the work behind the requests.
    pub fn open(config: &BlobStore, metrics: ObjectMetrics) -> Result<Self, OpenError> {
        let store = match config {
            BlobStore::Folder(folder) => Folder::open(folder)
                .map(Store::Folder)
                .map_err(|why| OpenError(format!("{why}; name a folder that this account can write, or a bucket")))?,
            BlobStore::S3(s3) => Bucket::new(s3, Handle::current()).map(Store::Bucket).map_err(OpenError)?,
        };
        let transfers = Arc::new(Semaphore::new(MAX_TRANSFERS));
        Ok(Self(Arc::new(Inner { store, transfers, metrics, log: Log::default() })))
    }

    /// Begins an object of exactly `length` bytes; it replaces one of the same name.
    ///
    /// Errors: `BlobStoreUnavailable`; `Overloaded` if [`MAX_TRANSFERS`] objects are written and read.
    pub async fn writer(&self, name: &str, length: u64) -> Result<Writer, Error> {
        let permit = self.slot().await?;
        let began = Instant::now();
        let upload = Upload::begin(&self.0.store, name, length).await;
        let upload = upload.map_err(|failure| self.failed(Operation::Write, &failure))?;
        Ok(Writer::new(self.clone(), upload, began, permit))
    }

    /// Writes an object at once, and repeats that if it fails.
    ///
    /// Errors: as [`Objects::writer`].
    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Error> {
        let _permit = self.slot().await?;
        let putting = attempts(upload::time_for(bytes.len()), OPERATION_TIME, || async {
            let mut upload = Upload::begin(&self.0.store, name, bytes.len() as u64).await?;
            upload.write(bytes.clone()).await?;
            upload.finish().await
        });
        self.run(Operation::Put, putting).await?;
        self.0.metrics.bytes_in(bytes.len());
        Ok(())
    }

    /// Opens an object for reading, or a range of it that is inside of it and not empty. `None`: there is none.
    ///
    /// Errors: as [`Objects::writer`]; the stream: `BlobStoreUnavailable`.
    pub async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<Option<Reading>, Error> {
        let permit = self.slot().await?;
        let began = Instant::now();
        let opened = reading::open(&self.0.store, name, range).await;
        let opened = opened.map_err(|failure| self.failed(Operation::Read, &failure))?;
        self.0.metrics.took(Operation::Read, began.elapsed());
        let Some(opened) = opened else {
            self.ended(Operation::Read, Outcome::Done);
            return Ok(None);
        };
        let size = opened.size;
        Ok(Some(Reading { size, stream: self.stream(name, opened, permit) }))
    }

    fn stream(
        &self,
        name: &str,
        opened: Opened,
        permit: OwnedSemaphorePermit,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        let mut end = ReadEnd { objects: self.clone(), outcome: Outcome::Abandoned, _permit: permit };
        let pieces = reading::pieces(self.0.store.clone(), name.to_owned(), opened);
        let pieces = pieces.map(Some).chain(stream::once(async { None }));
        let noted = pieces.filter_map(move |piece| {
            let noted = match piece {
                Some(Ok(piece)) => {
                    end.objects.0.metrics.bytes_out(piece.len());
                    Some(Ok(piece))
                }
                Some(Err(failure)) => {
                    end.outcome = Outcome::Failed;
                    Some(Err(end.objects.0.log.failed(Operation::Read.name(), &failure)))
                }
                None => {
                    if end.outcome == Outcome::Abandoned {
                        end.outcome = Outcome::Done;
                        end.objects.0.log.succeeded();
                    }
                    None
                }
            };
            std::future::ready(noted)
        });
        noted.boxed()
    }

    /// Copies objects of these lengths, one after the other, into one, by streaming, and repeats that once if it fails soon. Returns the SHA-256
    /// of the whole. If it is not the announced one, nothing was written.
    ///
    /// Errors: as [`Objects::writer`], also if an object is missing or has another length.
    pub async fn join(&self, parts: &[(String, u64)], name: &str, announced: &[u8; 32]) -> Result<[u8; 32], Error> {
        let _permit = self.slot().await?;
        let copying = async {
            let began = Instant::now();
            let copy = async || {
                let copied = tokio::time::timeout(JOIN_TIME, self.copy(parts, name, announced)).await;
                copied.unwrap_or_else(|_| Err(Failure::silent(JOIN_TIME)))
            };
            match copy().await {
                // The reads have attempts of their own. What fails late has been waited for.
                Err(failure) if !failure.is_final() && began.elapsed() < ATTEMPT_TIME => {
                    tokio::time::sleep(JOIN_PAUSE).await;
                    copy().await
                }
                copied => copied,
            }
        };
        self.run(Operation::Join, copying).await
    }

    async fn copy(&self, parts: &[(String, u64)], name: &str, announced: &[u8; 32]) -> Result<[u8; 32], Failure> {
        let length = parts.iter().map(|(_, length)| length).sum();
        let mut upload = Upload::begin(&self.0.store, name, length).await?;
        let mut hash = Sha256::new();
        // A service has the object as soon as it has the last piece, which therefore waits for the hash.
        let mut last = Bytes::new();
        for (part, length) in parts {
            let opened = match reading::open(&self.0.store, part, None).await? {
                Some(opened) if opened.size == *length => opened,
                other => {
                    let has = other.map(|opened| opened.size);
                    return Err(Failure::new(format!("it has {has:?} of the {length} bytes of {part}")));
                }
            };
            let mut pieces = std::pin::pin!(reading::pieces(self.0.store.clone(), part.clone(), opened));
            while let Some(piece) = pieces.try_next().await? {
                self.0.metrics.bytes_out(piece.len());
                self.0.metrics.bytes_in(piece.len());
                hash.update(&piece);
                let before = std::mem::replace(&mut last, piece);
                if !before.is_empty() {
                    upload.write(before).await?;
                }
            }
        }
        let sha256 = hash.finalize().into();
        if sha256 == *announced {
            upload.write(last).await?;
            upload.finish().await?;
        }
        Ok(sha256)
    }

    /// Returns the size of an object in bytes. `None`: there is none.
    pub async fn size(&self, name: &str) -> Result<Option<u64>, Error> {
        let asking = attempts(ATTEMPT_TIME, OPERATION_TIME, || async {
            match &self.0.store {
                Store::Folder(folder) => folder.size(name).await,
                Store::Bucket(bucket) => bucket.size(name).await,
            }
        });
        self.run(Operation::Size, asking).await
    }

    /// Deletes an object, if there is one.
    pub async fn delete(&self, name: &str) -> Result<(), Error> {
        let deleting = attempts(ATTEMPT_TIME, OPERATION_TIME, || self.0.store.delete(name));
        self.run(Operation::Delete, deleting).await
    }

    /// Lists the objects below a prefix that ends with a slash, in no certain order.
    pub fn list(&self, prefix: &str) -> BoxStream<'static, Result<Listed, Error>> {
        let objects = self.clone();
        match &self.0.store {
            Store::Folder(folder) => {
                let listed = folder.list(prefix);
                listed.map_err(move |failure| objects.failed(Operation::List, &failure)).boxed()
            }
            Store::Bucket(bucket) => {
                let first = Pages { objects, bucket: bucket.clone(), prefix: prefix.to_owned(), next: Some(None) };
                let pages = stream::try_unfold(first, async |mut pages| {
                    Ok::<_, Error>(pages.next().await?.map(|listed| (stream::iter(listed.into_iter().map(Ok)), pages)))
                });
                pages.try_flatten().boxed()
            }
        }
    }

    /// Signs an address from which anybody can read the object for this long; `None` for a folder.
    pub async fn address(&self, name: &str, valid: Duration) -> Result<Option<Url>, Error> {
        match &self.0.store {
            Store::Folder(_) => Ok(None),
            Store::Bucket(bucket) => bucket.address(name, valid).await.map(Some).map_err(Error::internal),
        }
    }

    /// Deletes what servers that were killed have left of objects that they were writing, if it was last written before this time.
    /// Returns the number of files; a service keeps nothing of an object that it did not get as a whole.
    pub async fn delete_unfinished(&self, since: DateTime<Utc>) -> Result<u64, Error> {
        match &self.0.store {
            Store::Folder(folder) => self.run(Operation::Delete, folder.delete_unfinished(since)).await,
            Store::Bucket(_) => Ok(0),
        }
    }

    /// Waits until fewer than [`MAX_TRANSFERS`] objects are written and read.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, Error> {
        match timing::within(MAX_SLOT_WAIT, self.0.transfers.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(closed)) => Err(Error::internal(closed)),
            Err(_) => {
                Err(Code::Overloaded.because("too many blobs are sent and received at once; nothing was changed"))
            }
        }
    }

    /// Runs an operation with its metrics and log.
    async fn run<T>(&self, operation: Operation, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Error> {
        let began = Instant::now();
        let result = work.await;
        self.0.metrics.took(operation, began.elapsed());
        match result {
            Ok(done) => {
                self.ended(operation, Outcome::Done);
                Ok(done)
            }
            Err(failure) => Err(self.failed(operation, &failure)),
        }
    }

    fn failed(&self, operation: Operation, failure: &Failure) -> Error {
        self.0.metrics.ended(operation, Outcome::Failed);
        self.0.log.failed(operation.name(), failure)
    }

    fn ended(&self, operation: Operation, outcome: Outcome) {
        self.0.metrics.ended(operation, outcome);
        if outcome == Outcome::Done {
            self.0.log.succeeded();
        }
    }

    fn metrics(&self) -> &ObjectMetrics {
        &self.0.metrics
    }
}

/// The pages of a list.
struct Pages {
    objects: Objects,
    bucket: Bucket,
    prefix: String,
    /// Token of the next page, if there is one; the first has none.
    next: Option<Option<String>>,
}

impl Pages {
    async fn next(&mut self) -> Result<Option<Vec<Listed>>, Error> {
        let Some(token) = self.next.take() else { return Ok(None) };
        let listing = attempts(ATTEMPT_TIME, OPERATION_TIME, || self.bucket.page(&self.prefix, token.clone()));
        let (listed, next) = self.objects.run(Operation::List, listing).await?;
        self.next = next.map(Some);
        Ok(Some(listed))
    }
}

/// Counts a read when it ends, in whichever way.
struct ReadEnd {
    objects: Objects,
    outcome: Outcome,
    _permit: OwnedSemaphorePermit,
}

impl Drop for ReadEnd {
    fn drop(&mut self) {
        self.objects.0.metrics.ended(Operation::Read, self.outcome);
    }
}

/// Parses the name of an object.
fn parse(name: &str) -> Result<Path, Failure> {
    Path::parse(name).map_err(|cause| Failure::lasting(cause.to_string()))
}
