//! Procedures whose body is bytes of any type. Their parameters are in the query string.
//!
//! The method gets the body piece by piece and stores it as it comes, so a body is never whole in memory. Its client must announce the
//! length, and keep to [`MIN_RATE`](crate::timing::MIN_RATE). The deadline of the request stands still from the first piece to the last:
//! an upload may last as long as its client needs at that rate, and what its method waits for meanwhile has limits of its own.

use std::future::Future;

use actix_web::http::header::{self, HeaderMap};
use actix_web::mime::Mime;
use actix_web::web::{Bytes, Payload};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::limits::Admission;
use crate::nsid;
use crate::timing::{DeadlinePause, Stage, measure, time_for};

use super::body;
use super::endpoint::Caller;
use super::reply::Reply;

/// Most bytes that a method gets at a time.
const PIECE: usize = 64 * 1024;
/// Longest media type, in bytes.
const MAX_MEDIA_TYPE: usize = 255;
/// Media type of a body without one (RFC 9110, section 8.3).
const ANY_BYTES: &str = "application/octet-stream";

/// A procedure whose body is bytes.
pub trait Upload: 'static {
    /// Its lexicon document.
    const LEXICON: &'static str;
    /// Its name, such as `blue.catbird.mls.uploadBlob`.
    const NSID: &'static str = nsid::of(Self::LEXICON);
    /// The last part of its name, such as `uploadBlob`.
    const METHOD: &'static str = nsid::method(Self::NSID);
    /// Errors that the lexicon declares, beside [`Code::COMMON`].
    const ERRORS: &'static [Code];
    /// Most bytes of the body.
    const MAX_BYTES: u64;
    /// Error for a body of more bytes.
    const TOO_LARGE: Code = Code::PayloadTooLarge;

    /// Its parameters.
    type Input: DeserializeOwned + 'static;
    type Output: Reply;

    /// Returns the conversation that a request names, as [`Endpoint::convo`](super::Endpoint::convo) does.
    fn convo(_: &mut Self::Input) -> Option<&mut ConvoId> {
        None
    }

    /// Takes the body. The caller has a place among the uploads until this returns. It does not hold a slot for requests, which last less
    /// long.
    fn call(
        app: &App,
        caller: &Caller,
        input: Self::Input,
        body: UploadBody,
    ) -> impl Future<Output = Result<Self::Output, Error>>;
}

/// What the head of a request says of its body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Announced {
    length: u64,
    media_type: String,
}

impl Announced {
    /// Reads the head of an upload of at most this many bytes.
    ///
    /// Errors: `too_large`; `InvalidRequest` without a length, with a body that is encoded, or with a media type that is none.
    pub(super) fn of(headers: &HeaderMap, most: u64, too_large: Code) -> Result<Self, Error> {
        let invalid = |why: &str| Code::InvalidRequest.because(why);
        let length = headers.get(header::CONTENT_LENGTH).filter(|_| !headers.contains_key(header::TRANSFER_ENCODING));
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        let length: u64 = length.ok_or_else(|| invalid("an upload must have a Content-Length"))?;
        if length > most {
            return Err(too_large.because(format!("the body has more than {most} bytes")));
        }
        // Its bytes would be stored as they are, and read without that header.
        let encoding = headers.get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(invalid("an upload must not have a Content-Encoding"));
        }
        let media_type = headers.get(header::CONTENT_TYPE).map_or(Some(ANY_BYTES), |value| value.to_str().ok());
        let is_one = |text: &&str| text.is_ascii() && text.len() <= MAX_MEDIA_TYPE && text.parse::<Mime>().is_ok();
        let media_type = media_type.filter(is_one);
        let media_type =
            media_type.ok_or_else(|| invalid("Content-Type must be a media type of at most 255 ASCII characters"))?;
        Ok(Self { length, media_type: media_type.to_owned() })
    }
}

/// Body of an upload, which its method reads.
pub struct UploadBody {
    /// Number of its bytes.
    pub length: u64,
    /// Media type that the client gave it.
    pub media_type: String,
    payload: Payload,
    admission: Admission,
    /// Bytes that have arrived and were not taken.
    rest: Bytes,
    arrived: u64,
    /// Time from which the client's time is counted. It moves by the time that the server made the client wait.
    since: Instant,
    /// Time at which the last bytes were taken.
    taken_at: Instant,
    /// From the first piece to the last.
    pause: Option<DeadlinePause>,
}

impl UploadBody {
    pub(super) fn new(announced: Announced, payload: Payload, admission: Admission) -> Self {
        let Announced { length, media_type } = announced;
        let now = Instant::now();
        Self {
            length,
            media_type,
            payload,
            admission,
            rest: Bytes::new(),
            arrived: 0,
            since: now,
            taken_at: now,
            pause: None,
        }
    }

    /// Returns the next bytes, at most [`PIECE`], or `None` after [`UploadBody::length`] bytes in all.
    ///
    /// Errors: `InvalidRequest` for a body that is too slow or incomplete.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.pause.is_none() && self.arrived == 0 {
            self.pause = Some(DeadlinePause::begin());
        }
        if self.rest.is_empty() {
            self.since += self.taken_at.elapsed();
            let arrived = self.receive().await;
            self.taken_at = Instant::now();
            match arrived {
                Ok(Some(bytes)) => {
                    self.rest = bytes;
                    self.admission.received(usize::try_from(self.arrived).unwrap_or(usize::MAX)).await;
                }
                ended => {
                    self.pause = None;
                    return ended;
                }
            }
        }
        Ok(Some(self.rest.split_to(self.rest.len().min(PIECE))))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        let deadline = self.since + body::GRACE + time_for(self.arrived);
        let waiting = measure(Stage::Upload, tokio::time::timeout_at(deadline, self.payload.next()));
        match waiting.await.map_err(|_| body::too_slow())? {
            Some(Ok(bytes)) => {
                self.arrived += bytes.len() as u64;
                Ok(Some(bytes))
            }
            // The HTTP library ends a body after its announced length, neither sooner nor later.
            None if self.arrived == self.length => Ok(None),
            None => Err(body::incomplete("it has another length than announced")),
            Some(Err(why)) => Err(body::incomplete(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::error::PayloadError;
    use actix_web::test::TestRequest;
    use actix_web::{FromRequest, dev};
    use futures_util::stream;
    use tokio::sync::mpsc;

    use super::*;
    use crate::app::Metrics;
    use crate::background::Background;
    use crate::config::Rates;
    use crate::limits::RateLimits;
    use crate::timing::MIN_RATE;

    type Pieces = mpsc::UnboundedSender<Result<Bytes, PayloadError>>;

    /// Returns a body of this length, and what sends its bytes.
    async fn body(length: u64) -> (UploadBody, Pieces) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let pieces: std::pin::Pin<Box<dyn stream::Stream<Item = _>>> =
            Box::pin(stream::poll_fn(move |context| receiver.poll_recv(context)));
        let mut payload = dev::Payload::Stream { payload: pieces };
        let request = TestRequest::default().to_http_request();
        let payload = Payload::from_request(&request, &mut payload).await.unwrap();
        let rates = Rates { per_did: 0, per_convo: 0, commits: 0 };
        let limits = RateLimits::new(rates, None, Metrics::default().limits, &Background::new());
        let admission = limits.admit(&"did:plc:a".parse().unwrap()).unwrap();
        let announced = Announced { length, media_type: ANY_BYTES.to_owned() };
        (UploadBody::new(announced, payload, admission), sender)
    }

    fn bytes(length: usize) -> Result<Bytes, PayloadError> {
        Ok(Bytes::from(vec![7; length]))
    }

    #[tokio::test]
    async fn a_body_comes_in_small_pieces_and_whole_or_not_at_all() {
        for (sent, length, expected) in [
            (vec![], 0, Ok(vec![])),
            (vec![bytes(5)], 5, Ok(vec![5])),
            (vec![bytes(2 * PIECE + 1), bytes(3)], 2 * PIECE as u64 + 4, Ok(vec![PIECE, PIECE, 1, 3])),
            (vec![bytes(5)], 6, Err(Code::InvalidRequest)),
            (vec![bytes(5), Err(PayloadError::Incomplete(None))], 6, Err(Code::InvalidRequest)),
        ] {
            let (mut body, sender) = body(length).await;
            sent.into_iter().for_each(|piece| sender.send(piece).unwrap());
            drop(sender);
            let mut pieces = Vec::new();
            let ended = loop {
                match body.next().await {
                    Ok(Some(piece)) => pieces.push(piece.len()),
                    Ok(None) => break Ok(pieces),
                    Err(error) => break Err(error.code),
                }
            };
            assert_eq!(ended, expected, "of {length} bytes");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_send_at_the_smallest_rate_while_the_server_waits_for_it() {
        let (mut body, sender) = body(1 << 20).await;
        let hour = std::time::Duration::from_secs(3_600);
        // The server's own time does not count.
        tokio::time::sleep(hour).await;
        let arrived = 10 * MIN_RATE;
        sender.send(bytes(usize::try_from(arrived).unwrap())).unwrap();
        while body.arrived < arrived || !body.rest.is_empty() {
            assert!(body.next().await.unwrap().is_some());
            tokio::time::sleep(hour).await;
        }
        let waiting = Instant::now();
        assert_eq!(body.next().await.unwrap_err().code, Code::InvalidRequest);
        assert_eq!(waiting.elapsed().as_secs(), (body::GRACE + time_for(arrived)).as_secs());
    }
}
