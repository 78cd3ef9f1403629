//! An object on its way into the store.

use std::time::Duration;

use futures_util::{TryStreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use object_store::MultipartUpload;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::timing;

use super::bucket::{self, Bucket};
use super::failure::{ATTEMPT_TIME, Failure, OPERATION_TIME, attempts};
use super::http::{self, Answer, BoxError};
use super::{PIECE, STALL_TIME, Store};

/// Pieces that wait for the connection.
const WAITING_PIECES: usize = 1;

/// An object of a known length that is being written. Dropping it leaves what was there before.
pub(super) struct Upload {
    name: String,
    length: u64,
    written: u64,
    /// The end of the object, which a service gets when the upload is finished and not before, since it has the object then.
    held: Bytes,
    target: Target,
}

enum Target {
    Folder(Box<dyn MultipartUpload>),
    Bucket {
        bucket: Bucket,
        pieces: mpsc::Sender<Bytes>,
        answer: Answer,
    },
    /// An object without bytes, whose request begins when it is finished.
    Empty(Bucket),
}

impl Upload {
    /// Begins an object of exactly `length` bytes.
    pub async fn begin(store: &Store, name: &str, length: u64) -> Result<Self, Failure> {
        let target = attempts(ATTEMPT_TIME, OPERATION_TIME, || async {
            match store {
                Store::Folder(folder) => Ok(Target::Folder(folder.put(name).await?)),
                Store::Bucket(bucket) if length == 0 => Ok(Target::Empty(bucket.clone())),
                Store::Bucket(bucket) => {
                    let (pieces, waiting) = mpsc::channel(WAITING_PIECES);
                    let answer = bucket.put(name, length, body(waiting, length)).await?;
                    Ok(Target::Bucket { bucket: bucket.clone(), pieces, answer })
                }
            }
        });
        Ok(Self { name: name.to_owned(), length, written: 0, held: Bytes::new(), target: target.await? })
    }

    /// Bytes that are missing.
    pub fn left(&self) -> u64 {
        self.length - self.written
    }

    /// Writes the next bytes, no more than [`Upload::left`]. Waits until the store takes them, each piece within [`STALL_TIME`].
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Failure> {
        self.written += bytes.len() as u64;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            if bytes.is_empty() && self.left() == 0 {
                self.held = piece;
            } else {
                self.target.take(piece).await?;
            }
        }
        Ok(())
    }

    /// Makes the object durable and visible, within the deadline of the request.
    pub async fn finish(mut self) -> Result<(), Failure> {
        let late = |_| Err(Failure::silent(OPERATION_TIME));
        if !self.held.is_empty() {
            self.target.take(std::mem::take(&mut self.held)).await?;
        }
        let (bucket, mut answer) = match self.target {
            Target::Folder(mut upload) => {
                let completed = timing::within(OPERATION_TIME, async { upload.complete().await }).await;
                return completed.map_or_else(late, |completed| completed.map(drop).map_err(Failure::from));
            }
            Target::Bucket { bucket, pieces, answer } => {
                drop(pieces);
                (bucket, answer)
            }
            Target::Empty(bucket) => {
                let (_, nothing) = mpsc::channel(WAITING_PIECES);
                let answer = bucket.put(&self.name, 0, body(nothing, 0)).await?;
                (bucket, answer)
            }
        };
        let answering = async { bucket::accepted(http::head(&mut answer).await?).await };
        timing::within(OPERATION_TIME, answering).await.unwrap_or_else(late)?;
        // A service that loses bytes is found out before anybody relies on them.
        match attempts(ATTEMPT_TIME, OPERATION_TIME, || bucket.size(&self.name)).await? {
            Some(size) if size == self.length => Ok(()),
            kept => Err(Failure::new(format!("it has kept {kept:?} of {} bytes", self.length))),
        }
    }
}

impl Target {
    /// Waits until the store takes a piece.
    async fn take(&mut self, piece: Bytes) -> Result<(), Failure> {
        let taking = async {
            match self {
                Target::Folder(upload) => Ok(upload.put_part(piece.into()).await?),
                Target::Bucket { pieces, answer, .. } => {
                    tokio::select! {
                        biased;
                        early = http::head(answer) => {
                            bucket::accepted(early?).await?;
                            Err(Failure::new("it answered before it had the whole object"))
                        }
                        Ok(()) = pieces.send(piece) => Ok(()),
                    }
                }
                Target::Empty(_) => Err(Failure::lasting("an object without bytes has no piece")),
            }
        };
        timeout(STALL_TIME, taking).await.unwrap_or_else(|_| Err(Failure::silent(STALL_TIME)))
    }
}

/// A body of `length` bytes. It fails if its writer is dropped before it has them all.
fn body(waiting: mpsc::Receiver<Bytes>, length: u64) -> http::Body {
    let pieces = stream::try_unfold((waiting, length), async |(mut waiting, left)| match waiting.recv().await {
        Some(piece) => {
            let left = left.saturating_sub(piece.len() as u64);
            Ok(Some((piece, (waiting, left))))
        }
        None if left == 0 => Ok(None),
        None => Err(BoxError::from("the writer has given up")),
    });
    StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync()
}

/// Longest time of an attempt to write this many bytes at once.
pub(super) fn time_for(bytes: usize) -> Duration {
    /// A store that takes less is too slow for a request.
    const BYTES_PER_SECOND: u64 = 2 * 1024 * 1024;
    ATTEMPT_TIME + Duration::from_millis(bytes as u64 * 1_000 / BYTES_PER_SECOND)
}
