//! Replies in memory: each keeps its share of the room until its last bytes are handed to the connection, and goes there in pieces, so
//! that it is not there twice.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

use crate::error::{Code, Error};
use crate::ids::Did;

use super::metrics::{Memory, XrpcMetrics};
use super::room::{Full, Room, Share, Size};

/// Most bytes of all replies together that their callers have not taken yet.
pub const REPLIES: Size = Size { small: 128 * 1024 * 1024, large: 384 * 1024 * 1024 };
/// Replies up to here are not counted: the connection that they go to has buffers as large.
const UNCOUNTED: usize = 4 * 1024;
/// The pieces in which replies go to their connections, in bytes.
const PIECE: usize = 64 * 1024;
/// After so many pieces others have their turn: a client that takes them as fast as they are made would have its thread to itself.
const RUN: usize = 8;

/// The memory that replies share. Cheap to clone.
#[derive(Clone)]
pub struct ReplyRoom {
    room: Room,
    metrics: XrpcMetrics,
}

impl ReplyRoom {
    pub fn new(metrics: XrpcMetrics) -> Self {
        Self { room: Room::new(REPLIES), metrics }
    }

    /// A share for so many bytes of a reply that is still to be made, which goes into the reply's extensions. Without room it is refused.
    pub(super) fn reserve(&self, caller: &Did, bytes: usize) -> Result<Share, Error> {
        let mut share = self.room.share(caller);
        share.grow_to(bytes).map_err(|full| self.refusal(full))?;
        Ok(share)
    }

    fn refusal(&self, full: Full) -> Error {
        self.metrics.memory_full(Memory::Replies, full);
        match full {
            Full::Caller => Code::RateLimitExceeded.because("you have not taken your earlier replies yet"),
            Full::Room => Code::Overloaded.because("too many replies have not been taken yet"),
        }
    }

    /// Gives a reply its share, or what is missing in the one that it has. One that finds no room is refused, unless it tells of work that
    /// is done.
    pub(super) fn hold(&self, caller: &Did, mut response: HttpResponse, done: bool) -> Result<HttpResponse, Error> {
        let reserved = response.extensions_mut().remove::<Share>();
        let (response, body) = response.into_parts();
        let bytes = match body.try_into_bytes() {
            Ok(bytes) => bytes,
            // A stream, which has limits of its own.
            Err(body) => return Ok(response.set_body(body)),
        };
        if bytes.len() <= UNCOUNTED {
            return Ok(response.set_body(BoxBody::new(bytes)));
        }
        let mut share = reserved.unwrap_or_else(|| self.room.share(caller));
        if let Err(full) = share.grow_to(bytes.len()) {
            let refusal = self.refusal(full);
            if !done {
                return Err(refusal);
            }
        }
        Ok(response.set_body(BoxBody::new(Held { bytes, run: 0, _share: share })))
    }

    /// Bytes of replies that are not taken yet.
    pub fn bytes(&self) -> usize {
        self.room.bytes()
    }
}

/// A reply's body with its share.
struct Held {
    bytes: Bytes,
    /// Pieces since others had their turn.
    run: usize,
    _share: Share,
}

impl MessageBody for Held {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.bytes.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if self.run == RUN {
            self.run = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.run += 1;
        let piece = self.bytes.len().min(PIECE);
        Poll::Ready(Some(Ok(self.bytes.split_to(piece))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> ReplyRoom {
        let size = Size { small: 4 * PIECE, large: 12 * PIECE };
        ReplyRoom { room: Room::new(size), metrics: crate::app::Metrics::default().xrpc }
    }

    fn caller(name: &str) -> Did {
        format!("did:plc:{name}").parse().unwrap()
    }

    fn page() -> HttpResponse {
        HttpResponse::Ok().body(vec![b'x'; 3 * PIECE])
    }

    #[test]
    fn who_has_its_share_is_refused_and_nobody_else() {
        let room = room();
        let held = room.hold(&caller("a"), page(), false).unwrap();
        assert_eq!(room.hold(&caller("a"), page(), false).unwrap_err().code, Code::RateLimitExceeded);
        let others: Vec<_> = ["b", "c", "d"].map(|name| room.hold(&caller(name), page(), false).unwrap()).into();
        assert_eq!(room.bytes(), 12 * PIECE);
        drop(held);
        assert!(room.hold(&caller("a"), page(), false).is_ok(), "what was taken makes room");
        drop(others);
        assert_eq!(room.bytes(), 0);
    }

    #[test]
    fn when_everybody_has_everything_all_are_refused_but_what_is_short() {
        let room = room();
        let held = ["a", "b", "c", "d"].map(|name| room.hold(&caller(name), page(), false).unwrap());
        assert_eq!(room.hold(&caller("e"), page(), false).unwrap_err().code, Code::Overloaded);
        let short = HttpResponse::Ok().body(vec![b'x'; UNCOUNTED]);
        assert!(room.hold(&caller("e"), short, false).is_ok());
        drop(held);
    }

    #[test]
    fn a_reply_that_is_still_to_be_made_counts_and_counts_once() {
        let room = room();
        let share = room.reserve(&caller("a"), 2 * PIECE).unwrap();
        assert_eq!(room.bytes(), 2 * PIECE);
        assert_eq!(room.reserve(&caller("a"), 3 * PIECE).unwrap_err().code, Code::RateLimitExceeded);
        let mut made = page();
        made.extensions_mut().insert(share);
        let held = room.hold(&caller("a"), made, false).unwrap();
        assert_eq!(room.bytes(), 3 * PIECE, "it has become as large as it is");
        drop(held);
        assert_eq!(room.bytes(), 0);
    }

    #[test]
    fn what_is_done_is_told_in_any_case() {
        let room = room();
        let held = room.hold(&caller("a"), page(), false).unwrap();
        assert!(room.hold(&caller("a"), page(), true).is_ok());
        drop(held);
        assert_eq!(room.bytes(), 0);
    }
}
