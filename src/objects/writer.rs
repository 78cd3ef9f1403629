//! The writing of an object, as its user sees it: with the limit on transfers, the metrics and the log.

use std::time::Instant;

use hyper::body::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::Error;
use crate::timing;

use super::Objects;
use super::failure::Failure;
use super::metrics::{Operation, Outcome};
use super::upload::Upload;

/// An object that is being written. Dropping it leaves no object, or the one before.
pub struct Writer {
    objects: Objects,
    upload: Option<Upload>,
    /// Bytes so far.
    written: usize,
    began: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Writer {
    pub(super) fn new(objects: Objects, upload: Upload, began: Instant, permit: OwnedSemaphorePermit) -> Self {
        Self { objects, upload: Some(upload), written: 0, began, _permit: permit }
    }

    /// Writes the next bytes. Waits while the store is slower than the caller; the deadline of the request does not run meanwhile, since
    /// its client is still sending.
    ///
    /// Errors: `BlobStoreUnavailable` if the store does not take them; nothing can be written any more.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), Error> {
        let Some(upload) = &mut self.upload else {
            return Err(Error::internal("an object was written after a failure"));
        };
        if bytes.len() as u64 > upload.left() {
            return Err(Error::internal("an object was given more bytes than announced"));
        }
        self.written += bytes.len();
        let written = timing::wait_for_client(upload.write(bytes)).await;
        self.note(written)
    }

    /// Makes the object durable, and visible under its name.
    ///
    /// Errors: `BlobStoreUnavailable` if the store does not confirm that; the object may be there nevertheless.
    pub async fn finish(mut self) -> Result<(), Error> {
        let Some(upload) = self.upload.take_if(|upload| upload.left() == 0) else {
            return Err(Error::internal("an object was finished without all of its bytes"));
        };
        let finished = upload.finish().await;
        if finished.is_ok() {
            self.objects.ended(Operation::Write, Outcome::Done);
            self.objects.metrics().bytes_in(self.written);
            self.objects.metrics().took(Operation::Write, self.began.elapsed());
            return Ok(());
        }
        self.note(finished)
    }

    fn note(&mut self, result: Result<(), Failure>) -> Result<(), Error> {
        result.map_err(|failure| {
            self.upload = None;
            self.objects.failed(Operation::Write, &failure)
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.upload.is_some() {
            self.objects.ended(Operation::Write, Outcome::Abandoned);
        }
    }
}
