//! An object on its way out of the store. A read that breaks goes on at the byte where it broke.

use std::ops::Range;

use futures_util::TryStreamExt;
use futures_util::stream::{self, BoxStream};
use hyper::body::Bytes;
use tokio::time::timeout;

use crate::error::Error;

use super::failure::{ATTEMPT_TIME, Failure, OPERATION_TIME, attempts};
use super::{PIECE, STALL_TIME, Store};

/// Times that a read goes on after it broke.
const RESUMES: u32 = 3;

/// An object that is being read.
pub struct Reading {
    /// Bytes of the whole object.
    pub size: u64,
    /// The bytes that were asked for, in pieces of at most 64 KiB. It fails if the store does not send all of them.
    pub stream: BoxStream<'static, Result<Bytes, Error>>,
}

/// What the store has opened.
pub(super) struct Opened {
    /// Bytes of the whole object.
    pub size: u64,
    /// The bytes that follow.
    pub range: Range<u64>,
    /// What tells the object from another one that replaces it, if the store has such a thing.
    pub version: Option<String>,
    pub pieces: BoxStream<'static, Result<Bytes, Failure>>,
}

/// Opens an object, or a range of it. `None`: there is none.
pub(super) async fn open(store: &Store, name: &str, range: Option<Range<u64>>) -> Result<Option<Opened>, Failure> {
    attempts(ATTEMPT_TIME, OPERATION_TIME, || async {
        let opened = store.read(name, range.clone()).await?;
        match (&opened, &range) {
            (Some(Opened { range: sent, size, .. }), Some(asked)) if sent != asked => {
                Err(Failure::new(format!("it sends bytes {sent:?} of {size} instead of {asked:?}")))
            }
            _ => Ok(opened),
        }
    })
    .await
}

/// Returns the bytes of what was opened: all of them, or a failure.
pub(super) fn pieces(store: Store, name: String, opened: Opened) -> impl Stream {
    let Opened { size, range, version, pieces } = opened;
    let rest = Rest { store, name, size, version, range, pieces, come: Bytes::new(), resumes: 0 };
    stream::try_unfold(rest, async |mut rest| Ok(rest.next().await?.map(|piece| (piece, rest))))
}

pub(super) trait Stream: futures_util::Stream<Item = Result<Bytes, Failure>> + Send + 'static {}

impl<S: futures_util::Stream<Item = Result<Bytes, Failure>> + Send + 'static> Stream for S {}

/// The part of an object that has not been read yet.
struct Rest {
    store: Store,
    name: String,
    size: u64,
    version: Option<String>,
    range: Range<u64>,
    pieces: BoxStream<'static, Result<Bytes, Failure>>,
    /// What has come and was not passed on.
    come: Bytes,
    resumes: u32,
}

impl Rest {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.come.is_empty() {
            self.come = self.receive().await?.unwrap_or_default();
        }
        let piece = self.come.split_to(self.come.len().min(PIECE));
        Ok((!piece.is_empty()).then_some(piece))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Failure> {
        while !self.range.is_empty() {
            let next = timeout(STALL_TIME, self.pieces.try_next()).await;
            let failure = match next.unwrap_or_else(|_| Err(Failure::silent(STALL_TIME))) {
                Ok(Some(piece)) if piece.len() as u64 > self.range.end - self.range.start => {
                    return Err(Failure::new("it sends more bytes than the object has"));
                }
                Ok(Some(piece)) if piece.is_empty() => continue,
                Ok(Some(piece)) => {
                    self.range.start += piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(None) => Failure::new(format!("it has sent {} bytes too few", self.range.end - self.range.start)),
                Err(failure) => failure,
            };
            if self.resumes == RESUMES {
                return Err(failure);
            }
            self.resumes += 1;
            self.resume().await?;
        }
        Ok(None)
    }

    async fn resume(&mut self) -> Result<(), Failure> {
        let opened = open(&self.store, &self.name, Some(self.range.clone())).await?;
        let is_same = |opened: &Opened| opened.size == self.size && opened.version == self.version;
        match opened {
            Some(opened) if is_same(&opened) => {
                self.pieces = opened.pieces;
                Ok(())
            }
            _ => Err(Failure::lasting("the object was replaced or deleted while it was read")),
        }
    }
}
