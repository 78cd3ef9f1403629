//! Memory of replies. A reply holds its reservation until the connection has taken its last bytes. It goes to the connection in pieces,
//! because a whole copy would double its memory.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::Bytes;

use crate::error::{Code, Error};
use crate::ids::Did;

use super::metrics::{Kind, MemoryMetrics};
use super::{Capacity, Full, MemoryBudget, Reservation};

/// Most bytes of all replies together that their callers have not taken yet.
pub(super) const REPLIES: Capacity = Capacity { small: 128 * 1024 * 1024, large: 384 * 1024 * 1024 };
/// Replies of up to this many bytes are not counted; the buffers of a connection are as large.
const UNCOUNTED: usize = 4 * 1024;
/// Bytes that a connection is handed at a time.
const PIECE: usize = 64 * 1024;
/// Pieces after which the reply yields. A client that takes pieces as fast as they are made would otherwise occupy its thread.
const MAX_RUN: usize = 8;

/// Memory that replies share. Cheap to clone.
#[derive(Clone)]
pub struct ReplyMemory {
    budget: MemoryBudget,
    metrics: MemoryMetrics,
}

impl ReplyMemory {
    pub fn new(metrics: MemoryMetrics) -> Self {
        Self { budget: MemoryBudget::new(REPLIES), metrics }
    }

    /// Reserves memory for a reply that is still to be encoded. The caller puts the reservation into the extensions of the reply.
    ///
    /// Errors: `RateLimitExceeded` if the caller has its share, `Overloaded` if the budget is used up.
    pub(crate) fn reserve(&self, caller: &Did, bytes: usize) -> Result<Reservation, Error> {
        let mut reservation = self.budget.reservation(caller);
        reservation.grow_to(bytes).map_err(|full| self.refusal(full))?;
        Ok(reservation)
    }

    fn refusal(&self, full: Full) -> Error {
        self.metrics.full(Kind::Replies, full);
        match full {
            Full::Caller => Code::RateLimitExceeded.because("you have not read your earlier replies yet"),
            Full::All => Code::Overloaded.because("too many replies have not been read yet"),
        }
    }

    /// Reserves memory for an encoded reply, or grows the reservation in its extensions. A reply without memory is refused with the
    /// errors of [`ReplyMemory::reserve`], unless it reports work that is `done`.
    pub(crate) fn hold(&self, caller: &Did, mut response: HttpResponse, done: bool) -> Result<HttpResponse, Error> {
        let reserved = response.extensions_mut().remove::<Reservation>();
        let (response, body) = response.into_parts();
        let bytes = match body.try_into_bytes() {
            Ok(bytes) => bytes,
            // A stream has limits of its own.
            Err(body) => return Ok(response.set_body(body)),
        };
        if bytes.len() <= UNCOUNTED {
            return Ok(response.set_body(BoxBody::new(bytes)));
        }
        let mut reservation = reserved.unwrap_or_else(|| self.budget.reservation(caller));
        if let Err(full) = reservation.grow_to(bytes.len()) {
            let refusal = self.refusal(full);
            if !done {
                return Err(refusal);
            }
        }
        Ok(response.set_body(BoxBody::new(Held { bytes, run: 0, _reservation: reservation })))
    }

    /// Bytes of replies that are not taken yet.
    pub fn bytes(&self) -> usize {
        self.budget.bytes()
    }
}

/// Body of a reply, with its reservation.
struct Held {
    bytes: Bytes,
    /// Pieces since it yielded.
    run: usize,
    _reservation: Reservation,
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
        if self.run == MAX_RUN {
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
    use crate::metrics::Registry;

    fn memory() -> ReplyMemory {
        let capacity = Capacity { small: 4 * PIECE, large: 12 * PIECE };
        ReplyMemory { budget: MemoryBudget::new(capacity), metrics: MemoryMetrics::register(&mut Registry::default()) }
    }

    fn caller(name: &str) -> Did {
        format!("did:plc:{name}").parse().unwrap()
    }

    fn page() -> HttpResponse {
        HttpResponse::Ok().body(vec![b'x'; 3 * PIECE])
    }

    #[test]
    fn a_caller_with_a_full_share_is_refused_and_others_are_not() {
        let memory = memory();
        let held = memory.hold(&caller("a"), page(), false).unwrap();
        assert_eq!(memory.hold(&caller("a"), page(), false).unwrap_err().code, Code::RateLimitExceeded);
        let others: Vec<_> = ["b", "c", "d"].map(|name| memory.hold(&caller(name), page(), false).unwrap()).into();
        assert_eq!(memory.bytes(), 12 * PIECE);
        drop(held);
        assert!(memory.hold(&caller("a"), page(), false).is_ok(), "a reply that was taken releases its memory");
        drop(others);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn a_full_budget_refuses_every_reply_but_short_ones() {
        let memory = memory();
        let held = ["a", "b", "c", "d"].map(|name| memory.hold(&caller(name), page(), false).unwrap());
        assert_eq!(memory.hold(&caller("e"), page(), false).unwrap_err().code, Code::Overloaded);
        let short = HttpResponse::Ok().body(vec![b'x'; UNCOUNTED]);
        assert!(memory.hold(&caller("e"), short, false).is_ok());
        drop(held);
    }

    #[test]
    fn a_reserved_reply_is_counted_once() {
        let memory = memory();
        let reservation = memory.reserve(&caller("a"), 2 * PIECE).unwrap();
        assert_eq!(memory.bytes(), 2 * PIECE);
        assert_eq!(memory.reserve(&caller("a"), 3 * PIECE).unwrap_err().code, Code::RateLimitExceeded);
        let mut made = page();
        made.extensions_mut().insert(reservation);
        let held = memory.hold(&caller("a"), made, false).unwrap();
        assert_eq!(memory.bytes(), 3 * PIECE, "the reservation has grown to the size of the reply");
        drop(held);
        assert_eq!(memory.bytes(), 0);
    }

    #[test]
    fn a_reply_that_reports_done_work_is_never_refused() {
        let memory = memory();
        let held = memory.hold(&caller("a"), page(), false).unwrap();
        assert!(memory.hold(&caller("a"), page(), true).is_ok());
        drop(held);
        assert_eq!(memory.bytes(), 0);
    }
}
