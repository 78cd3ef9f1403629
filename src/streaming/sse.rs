//! An open stream as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), plain or in gzip.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::web::{Bytes, BytesMut};

use crate::bodies::Bodies;
use crate::error::Error;
use crate::events::EventMetrics;
use crate::events::OpenStream;
use crate::events::cursor::Cursor;
use crate::events::event::{Info, Published};
use crate::events::subscriber::End;
use crate::memory::LargeWork;
use crate::nsid;
use crate::xrpc::Reply;

use super::drain::{Drain, Drained, Framing};
use super::gzip::{Gzip, Stored};

/// Method of the stream, which prefixes the types of its events.
const METHOD: &str = nsid::STREAM_CONVO_EVENTS;
/// Milliseconds after which a client connects again, unless the final event names another wait.
const RETRY_MS: u64 = 1_000;
/// Places of the two encodings in [`Published::encoded`].
const PLAIN: usize = 0;
const GZIP: usize = 1;

/// Reply that follows an open stream to its end.
pub struct Sse(Body);

impl Sse {
    pub fn new(open: OpenStream, takes_gzip: bool, bodies: Bodies, metrics: EventMetrics) -> Self {
        let gzip = takes_gzip.then(Gzip::begin);
        Self(Body { drain: Some(Drain::new(open, bodies, metrics)), begun: false, gzip })
    }
}

impl Reply for Sse {
    async fn response(self, _: Option<&LargeWork>) -> Result<HttpResponse, Error> {
        let mut response = HttpResponse::Ok();
        response
            .content_type("text/event-stream")
            .insert_header((header::CACHE_CONTROL, "no-cache"))
            .insert_header((header::VARY, "Accept-Encoding"))
            // Tells proxies that buffer replies not to buffer this one.
            .insert_header(("X-Accel-Buffering", "no"));
        if self.0.gzip.is_some() {
            response.insert_header((header::CONTENT_ENCODING, "gzip"));
        }
        Ok(response.body(self.0))
    }
}

struct Body {
    /// `None` when the stream has ended.
    drain: Option<Drain>,
    begun: bool,
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
            (None, Some(Lines::Own(lines))) => Some(lines),
            (None, Some(Lines::Large(event, cursor))) => Some(event.encoded(PLAIN, &cursor, || lines(&event, &cursor))),
            (Some(gzip), Some(Lines::Own(lines))) => Some(gzip.part(&Stored::new(&lines))),
            (Some(gzip), Some(Lines::Large(event, cursor))) => {
                let stored = || Stored::new(&lines(&event, &cursor)).0;
                Some(gzip.part(&Stored(event.encoded(GZIP, &cursor, stored))))
            }
            (Some(gzip), None) => gzip.end(),
        };
        Poll::Ready(next.map(Ok))
    }
}

/// The next lines of a stream.
enum Lines {
    Own(Bytes),
    /// Those of a large event, which streams share.
    Large(std::sync::Arc<Published>, Cursor),
}

impl Body {
    /// Returns the next lines, or `None` at the end of the stream.
    fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<Option<Lines>> {
        let Some(drain) = &mut self.drain else { return Poll::Ready(None) };
        if !std::mem::replace(&mut self.begun, true) {
            // The first lines carry a cursor, for a client that is cut off before the first event.
            return Poll::Ready(Some(Lines::Own(format!("retry: {RETRY_MS}\nid: {}\n\n", drain.cursor()).into())));
        }
        let mut chunk = BytesMut::new();
        match drain.fill(&mut ServerSentEvents, &mut chunk, context) {
            Drained::Gathered if chunk.is_empty() => return Poll::Pending,
            Drained::Gathered => {}
            Drained::Large(event, cursor) => return Poll::Ready(Some(Lines::Large(event, cursor))),
            Drained::Gone | Drained::Ended(End::Finished) => self.drain = None,
            Drained::Ended(End::Announced(info)) => {
                chunk.extend_from_slice(&final_lines(drain, info));
                self.drain = None;
            }
        }
        Poll::Ready((!chunk.is_empty()).then(|| Lines::Own(chunk.freeze())))
    }
}

struct ServerSentEvents;

impl Framing for ServerSentEvents {
    fn event(&self, event: &Published, cursor: &Cursor, out: &mut BytesMut) {
        out.extend_from_slice(&event.encoded(PLAIN, cursor, || lines(event, cursor)));
    }

    fn keepalive(&mut self, cursor: Option<&Cursor>, out: &mut BytesMut) -> bool {
        out.extend_from_slice(b": \n");
        if let Some(cursor) = cursor {
            // Without data this is no event; it only moves the client's cursor.
            out.extend_from_slice(format!("id: {cursor}\n").as_bytes());
        }
        out.extend_from_slice(b"\n");
        true
    }
}

/// Returns the lines of an event.
fn lines(event: &Published, cursor: &Cursor) -> Bytes {
    let mut text = format!("id: {cursor}\nevent: {}\ndata: ", event.event.name()).into_bytes();
    // JSON has no line breaks of its own.
    serde_json::to_writer(&mut text, &event.view(METHOD, cursor))
        .expect("an event has no map with keys that are not texts");
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// Returns the lines of the final event, with its wait as the protocol has it.
fn final_lines(drain: &Drain, info: Info) -> Vec<u8> {
    let (event, retry_ms) = drain.final_event(info);
    [format!("retry: {retry_ms}\n").as_bytes(), &lines(&event, drain.cursor())].concat()
}
