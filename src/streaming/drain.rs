//! The loop that both kinds of stream share: takes what waits for a client, and gathers it into chunks for its connection.

use std::sync::Arc;
use std::task::Waker;

use actix_web::web::BytesMut;

use crate::events::EventMetrics;
use crate::events::OpenStream;
use crate::events::cursor::Cursor;
use crate::events::event::{Info, Published};
use crate::events::subscriber::{End, Outgoing};

/// Bytes after which a chunk is handed to the connection. A larger event is a chunk by itself.
const CHUNK: usize = 64 * 1024;

/// The form in which a kind of stream writes what it sends.
pub(super) trait Framing {
    /// Appends an event to `out`.
    fn event(&self, event: &Published, cursor: &Cursor, out: &mut BytesMut);

    /// Appends a keepalive to `out`. A `cursor` says that everything before it has been sent. Returns false if the client is gone.
    fn keepalive(&mut self, cursor: Option<&Cursor>, out: &mut BytesMut) -> bool;
}

/// An open stream on its way to one client.
pub(super) struct Drain {
    open: OpenStream,
    /// Cursor of what was sent last.
    sent: Cursor,
    metrics: EventMetrics,
}

/// Result of draining a stream.
pub(super) enum Drained {
    /// Everything that waits, or a full chunk of it, is in `out`. Nothing waits if `out` is empty; the waker is called when that changes.
    Gathered,
    /// The next event is large and `out` is empty. The caller renders it by itself, so that it is not copied.
    Large(Arc<Published>, Cursor),
    /// The client is gone. Nothing more is sent.
    Gone,
    /// The stream has ended. `out` may hold what came before.
    Ended(End),
}

impl Drain {
    pub(super) fn new(open: OpenStream, metrics: EventMetrics) -> Self {
        Self { sent: open.from.clone(), open, metrics }
    }

    /// Cursor of what was sent last.
    pub(super) fn cursor(&self) -> &Cursor {
        &self.sent
    }

    /// Appends what waits for the client to `out`, until it holds [`CHUNK`] bytes.
    pub(super) fn fill(&mut self, framing: &mut impl Framing, out: &mut BytesMut, waker: &Waker) -> Drained {
        while out.len() < CHUNK {
            match self.open.subscriber.next(waker) {
                Ok(Some(Outgoing::Event(event, cursor))) => {
                    self.metrics.event_delivered(event.event.name());
                    self.sent = cursor.clone();
                    if out.is_empty() && event.size >= CHUNK {
                        return Drained::Large(event, cursor);
                    }
                    framing.event(&event, &cursor, out);
                }
                Ok(Some(Outgoing::Keepalive(cursor))) => {
                    if let Some(cursor) = &cursor {
                        self.sent = cursor.clone();
                    }
                    if !framing.keepalive(cursor.as_ref(), out) {
                        self.metrics.stream_ended("silent");
                        return Drained::Gone;
                    }
                }
                Ok(None) => break,
                Err(end) => return Drained::Ended(end),
            }
        }
        Drained::Gathered
    }

    /// Returns the final event of a stream that the server ends, and the milliseconds after which the client should come back.
    pub(super) fn final_event(&self, info: Info) -> (Published, u64) {
        let (event, retry_ms) = Published::final_event(info, self.sent.clone(), self.open.subscriber.id);
        self.metrics.event_delivered(event.event.name());
        self.metrics.stream_ended(info.name());
        (event, retry_ms)
    }
}
