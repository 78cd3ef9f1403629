//! The stream as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

use std::fmt::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::web::Bytes;
use serde::Serialize;

use crate::error::Error;
use crate::memory::LargeWork;
use crate::nsid;
use crate::xrpc::Answer;
use crate::xrpc::gzip::{Gzip, Stored};

use super::Open;
use super::cursor::Cursor;
use super::event::{Info, Published};
use super::metrics::EventMetrics;
use super::subscriber::{End, Waiting};

/// The method whose stream this is, as types of events have it.
const METHOD: &str = nsid::STREAM_CONVO_EVENTS;
/// How long a client waits before it connects again, if nothing else is said, in milliseconds.
const RETRY_MS: u64 = 1_000;
/// About as many bytes are handed to the connection at a time.
const CHUNK: usize = 64 * 1024;

/// The reply that follows an open stream to its end.
pub struct Sse(Body);

impl Sse {
    pub(super) fn new(open: Open, takes_gzip: bool, metrics: EventMetrics) -> Self {
        let gzip = takes_gzip.then(Gzip::begin);
        Self(Body { sent: open.from.clone(), open, metrics, begun: false, over: false, gzip })
    }
}

impl Answer for Sse {
    async fn response(self, _: Option<&LargeWork>) -> Result<HttpResponse, Error> {
        let mut response = HttpResponse::Ok();
        response
            .content_type("text/event-stream")
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .insert_header((header::VARY, "Accept-Encoding"))
            // Proxies that gather replies before they pass them on leave this one alone.
            .insert_header(("X-Accel-Buffering", "no"));
        if self.0.gzip.is_some() {
            response.insert_header((header::CONTENT_ENCODING, "gzip"));
        }
        Ok(response.body(self.0))
    }
}

struct Body {
    open: Open,
    metrics: EventMetrics,
    /// The cursor of what was sent last.
    sent: Cursor,
    begun: bool,
    over: bool,
    gzip: Option<Gzip>,
}

impl MessageBody for Body {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let body = self.get_mut();
        let next = ready!(body.poll_lines(context));
        let next = match (&mut body.gzip, next) {
            (None, None) => None,
            (None, Some(Lines::Own(lines))) => Some(lines.into()),
            (None, Some(Lines::Shared(event))) => Some(rendered(&event, &event.cursor)),
            (Some(gzip), Some(Lines::Own(lines))) => Some(gzip.part(&Stored::new(&lines))),
            (Some(gzip), Some(Lines::Shared(event))) => {
                Some(gzip.part(event.gzip.get_or_init(|| Stored::new(&fresh(&event, &event.cursor)))))
            }
            (Some(gzip), None) => gzip.end(),
        };
        Poll::Ready(next.map(Ok))
    }
}

/// What is sent next.
enum Lines {
    Own(Vec<u8>),
    /// A large event, with the cursor that others are sent it with, too. It is not copied.
    Shared(Arc<Published>),
}

impl Body {
    /// The next lines; `None`: there are no more.
    fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<Option<Lines>> {
        let body = self;
        if !body.begun {
            body.begun = true;
            // With a place to resume from, for whoever is cut off before anything happens.
            return Poll::Ready(Some(Lines::Own(format!("retry: {RETRY_MS}\nid: {}\n\n", body.sent).into())));
        }
        if body.over {
            return Poll::Ready(None);
        }
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            match body.open.subscriber.next(context.waker()) {
                Ok(Some(Waiting::Event(event, cursor))) => {
                    body.metrics.event_delivered(event.event.name());
                    body.sent = cursor.clone();
                    match chunk.is_empty() && event.size >= CHUNK && event.cursor == cursor {
                        true => return Poll::Ready(Some(Lines::Shared(event))),
                        false => chunk.extend_from_slice(&rendered(&event, &cursor)),
                    }
                }
                Ok(Some(Waiting::Beat(cursor))) => {
                    chunk.extend_from_slice(b": \n");
                    if let Some(cursor) = cursor {
                        // Without data there is no event, only a newer place to resume from.
                        chunk.extend_from_slice(format!("id: {cursor}\n").as_bytes());
                        body.sent = cursor;
                    }
                    chunk.push(b'\n');
                }
                Ok(None) if chunk.is_empty() => return Poll::Pending,
                Ok(None) => break,
                Err(end) => {
                    body.over = true;
                    if let End::Told(info) = end {
                        body.metrics.event_delivered("infoEvent");
                        body.metrics.stream_ended(info.name());
                        chunk.extend_from_slice(farewell(info, &body.sent, body.open.subscriber.id).as_bytes());
                    }
                    if chunk.is_empty() {
                        return Poll::Ready(None);
                    }
                    break;
                }
            }
        }
        Poll::Ready(Some(Lines::Own(chunk)))
    }
}

/// An event's lines. Those who were given the same cursor share them.
fn rendered(event: &Published, cursor: &Cursor) -> Bytes {
    let lines = || fresh(event, cursor);
    if *cursor == event.cursor { event.sse.get_or_init(lines).clone() } else { lines() }
}

fn fresh(event: &Published, cursor: &Cursor) -> Bytes {
    lines(event.event.name(), &event.view(METHOD, cursor), cursor)
}

fn lines(name: &str, view: &impl Serialize, cursor: &Cursor) -> Bytes {
    let mut text = format!("id: {cursor}\nevent: {name}\ndata: ").into_bytes();
    // JSON has no line breaks of its own.
    serde_json::to_writer(&mut text, view).expect("an event has no map with keys that are not texts");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// The last event of a stream that the server ends, with its wait as the protocol has it.
fn farewell(info: Info, cursor: &Cursor, seed: u64) -> String {
    let (event, retry) = Published::farewell(info, cursor.clone(), seed);
    let mut text = format!("retry: {retry}\n");
    let lines = lines(event.event.name(), &event.view(METHOD, cursor), cursor);
    let _ = text.write_str(&String::from_utf8_lossy(&lines));
    text
}
