//! Replies that are bytes and are sent as they come from the object storage, whole or in part (RFC 9110, section 14).
//!
//! The bytes are opaque, of a type that their sender chose. So no browser may show them as a page of this server: they are an attachment,
//! of exactly that type, without any right to run or load something.
//!
//! A failure after the first byte ends the connection, so that the client finds the body incomplete. It can request the rest as a range.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody, SizedStream};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName};
use actix_web::web::Bytes;
use actix_web::{HttpResponse, HttpResponseBuilder};
use futures_util::stream::{self, BoxStream, StreamExt};

use crate::app::App;
use crate::error::{Code, Error};
use crate::limits::{LimitMetrics, Meter, OpenTransfer, Transfer};
use crate::memory::LargeWork;

use super::endpoint::Caller;
use super::reply::Reply;
use super::selection::Selected;

/// Most bytes that the connection is given at a time. It copies them behind up to 32 KiB that wait to be sent.
const PIECE: usize = 32 * 1024;
/// Caches may keep the content, but must ask each time: whether the caller may still read it is decided anew.
const CACHE_CONTROL: &str = "private, no-cache";
const POLICY: (HeaderName, &str) = (header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox");
const ATTACHMENT: (HeaderName, &str) = (header::CONTENT_DISPOSITION, "attachment");

/// Bytes that can be downloaded. They never change under the same tag.
#[derive(Debug, Clone)]
pub struct Content {
    /// Number of all bytes.
    pub size: u64,
    /// Letters and digits that name these bytes and no others, such as their hash.
    pub tag: String,
    /// Media type, as the upload had it.
    pub media_type: String,
}

/// Where the bytes of a download come from.
pub enum Source {
    /// From here. The stream has exactly the requested bytes.
    Here(BoxStream<'static, Result<Bytes, Error>>),
    /// From another address, to which the client is sent.
    At(String),
}

/// Reply with bytes.
pub struct Download(HttpResponse);

impl Download {
    /// Makes the reply for a caller, from what its request selects of the content. `open` gets the range of the bytes to send. It is
    /// called only if bytes are sent, while the caller has a place among the downloads.
    ///
    /// Errors: `RangeNotSatisfiable`; `RateLimitExceeded` or `Overloaded` if too many downloads are in progress; those of `open`.
    pub async fn of(
        app: &App,
        caller: &Caller,
        content: Content,
        open: impl AsyncFnOnce(Range<u64>) -> Result<Source, Error>,
    ) -> Result<Self, Error> {
        let etag = format!("\"{}\"", content.tag);
        let selected = match caller.selection.of_content(&etag, content.size) {
            // A range has a meaning for GET only (RFC 9110, section 14.2).
            Ok(Selected::Part(_)) | Err(_) if caller.head_only => Selected::All,
            selected => selected?,
        };
        let begin = |status| {
            let mut response = HttpResponse::build(status);
            response.insert_header((header::ETAG, &*etag)).insert_header((header::CACHE_CONTROL, CACHE_CONTROL));
            response
        };
        let (mut response, range) = match selected {
            Selected::Nothing => return Ok(Self(begin(StatusCode::NOT_MODIFIED).finish())),
            Selected::All => (begin(StatusCode::OK), 0..content.size),
            Selected::Part(part) => {
                let mut response = begin(StatusCode::PARTIAL_CONTENT);
                let place = format!("bytes {}-{}/{}", part.start, part.end - 1, content.size);
                response.insert_header((header::CONTENT_RANGE, place));
                (response, part)
            }
        };
        describe(&mut response, &content);
        let length = range.end - range.start;
        if caller.head_only || length == 0 {
            return Ok(Self(response.body(Untold(length))));
        }
        let place = app.limits.begin(Transfer::Download, &caller.did)?;
        match open(range).await? {
            Source::At(address) => {
                Ok(Self(HttpResponse::TemporaryRedirect().insert_header((header::LOCATION, address)).finish()))
            }
            Source::Here(stream) => {
                let (meter, metrics) = (app.limits.meter(&caller.did), app.metrics.limits.clone());
                let sending = Sending { stream, rest: Bytes::new(), sent: 0, length, meter, metrics, _place: place };
                Ok(Self(response.body(SizedStream::new(length, sending.pieces()))))
            }
        }
    }
}

fn describe(response: &mut HttpResponseBuilder, content: &Content) {
    response
        .insert_header((header::CONTENT_TYPE, &*content.media_type))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header(ATTACHMENT)
        .insert_header(POLICY);
}

impl Reply for Download {
    const IS_METERED: bool = true;

    async fn response(self, _: Option<&LargeWork>) -> Result<HttpResponse, Error> {
        Ok(self.0)
    }
}

/// Body of a reply to HEAD, of which only the length is sent; or a body without bytes.
struct Untold(u64);

impl MessageBody for Untold {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// A body that is being sent.
struct Sending {
    stream: BoxStream<'static, Result<Bytes, Error>>,
    /// Bytes that have come and were not sent.
    rest: Bytes,
    sent: u64,
    length: u64,
    meter: Meter,
    metrics: LimitMetrics,
    _place: OpenTransfer,
}

impl Sending {
    fn pieces(self) -> impl stream::Stream<Item = Result<Bytes, Error>> {
        stream::unfold(Some(self), async |sending| {
            let mut sending = sending?;
            match sending.next().await {
                Ok(piece) => piece.map(|piece| (Ok(piece), Some(sending))),
                Err(error) => {
                    tracing::warn!(%error, "a download ends before its last byte");
                    sending.metrics.download_cut();
                    Some((Err(error), None))
                }
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.rest.is_empty() {
            let left = self.length - self.sent;
            if left == 0 {
                return Ok(None);
            }
            let wrong =
                |how: &str| Code::InternalServerError.because(format!("the object storage has sent {how} bytes"));
            self.rest = self.stream.next().await.ok_or_else(|| wrong("fewer"))??;
            if self.rest.len() as u64 > left {
                return Err(wrong("more"));
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(PIECE));
        self.sent += piece.len() as u64;
        self.meter.passed(usize::try_from(self.sent).unwrap_or(usize::MAX)).await;
        Ok(Some(piece))
    }
}
