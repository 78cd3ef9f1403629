//! The loop that both kinds of stream share: takes what waits for a client, and gathers it into chunks for its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::web::BytesMut;

use crate::bodies::Bodies;
use crate::error::Error;
use crate::events::EventMetrics;
use crate::events::OpenStream;
use crate::events::cursor::Cursor;
use crate::events::event::{Event, Info, Published};
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
    bodies: Bodies,
    /// The next event, if its body is being read. What follows waits for it.
    reading: Option<Reading>,
    metrics: EventMetrics,
}

/// An event whose body is being read.
struct Reading {
    event: Arc<Published>,
    cursor: Cursor,
    body: Pin<Box<dyn Future<Output = Result<(), Error>>>>,
}

/// Result of draining a stream.
pub(super) enum Drained {
    /// Everything that waits, or a full chunk of it, is in `out`. Nothing can be sent if `out` is empty; the waker is called when that changes.
    Gathered,
    /// The next event is large and `out` is empty. The caller renders it by itself, so that it is not copied.
    Large(Arc<Published>, Cursor),
    /// The client is gone. Nothing more is sent.
    Gone,
    /// The stream has ended. `out` may hold what came before.
    Ended(End),
}

impl Drain {
    pub(super) fn new(open: OpenStream, bodies: Bodies, metrics: EventMetrics) -> Self {
        Self { sent: open.from.clone(), open, bodies, reading: None, metrics }
    }

    /// Cursor of what was sent last.
    pub(super) fn cursor(&self) -> &Cursor {
        &self.sent
    }

    /// Appends what waits for the client to `out`, until it holds [`CHUNK`] bytes.
    pub(super) fn fill(
        &mut self,
        framing: &mut impl Framing,
        out: &mut BytesMut,
        context: &mut Context<'_>,
    ) -> Drained {
        while out.len() < CHUNK {
            match self.next(context) {
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

    /// Takes what is sent next. `Ok(None)`: nothing waits, or its body is being read; the waker is called when that changes. A body that
    /// cannot be read ends the stream, and the client resumes before its event.
    fn next(&mut self, context: &mut Context<'_>) -> Result<Option<Outgoing>, End> {
        if self.reading.is_none() {
            match self.open.subscriber.next(context.waker())? {
                Some(Outgoing::Event(event, cursor)) if event.event.missing().is_some() => {
                    let body = Box::pin(fill(self.bodies.clone(), event.clone()));
                    self.reading = Some(Reading { event, cursor, body });
                }
                next => return Ok(next),
            }
        }
        let Some(reading) = &mut self.reading else { return Ok(None) };
        if let Some(cut) = self.open.subscriber.cut(context.waker()) {
            self.reading = None;
            return Err(cut);
        }
        match reading.body.as_mut().poll(context) {
            Poll::Pending => Ok(None),
            Poll::Ready(Err(_)) => {
                self.reading = None;
                Err(End::Announced(Info::Reset))
            }
            Poll::Ready(Ok(())) => Ok(self.reading.take().map(|read| Outgoing::Event(read.event, read.cursor))),
        }
    }

    /// Returns the final event of a stream that the server ends, and the milliseconds after which the client should come back.
    pub(super) fn final_event(&self, info: Info) -> (Published, u64) {
        let (event, retry_ms) = Published::final_event(info, self.sent.clone(), self.open.subscriber.id);
        self.metrics.event_delivered(event.event.name());
        self.metrics.stream_ended(info.name());
        (event, retry_ms)
    }
}

async fn fill(bodies: Bodies, event: Arc<Published>) -> Result<(), Error> {
    match &event.event {
        Event::Message { message, .. } => bodies.fill(message).await,
        _ => Ok(()),
    }
}
