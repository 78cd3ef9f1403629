//! The stream as a WebSocket (RFC 6455).
//!
//! It is the body of the reply, as the stream of server-sent events is: the connection asks for more when it has room, and takes from
//! the subscriber then, so nothing waits here and the hub's bounds are the only ones. What the client sends is read when the
//! connection is asked for more as well, one message after the other, so a client that takes nothing is not listened to either.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use actix_http::ws::{self, CloseCode, CloseReason, Codec, Frame, Item, Message, ProtocolError};
use actix_web::body::{BodySize, MessageBody};
use actix_web::web::{Bytes, BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::Stream;
use tokio::time::Sleep;
use tokio_util::codec::{Decoder, Encoder};

use crate::error::{Code, Error};
use crate::suspensions::suspended;
use crate::xrpc::Upgrade;

use super::cursor::Cursor;
use super::event::{Info, Published};
use super::frames::{self, FromClient};
use super::metrics::EventMetrics;
use super::subscriber::{End, Waiting};
use super::{HEARTBEAT, Open};

/// How often a client is pinged.
pub const PING_EVERY: Duration = Duration::from_secs(30);
/// How long a client that was pinged may say nothing at all. A large event may be on its way to it first.
pub const PONG_TIME: Duration = Duration::from_secs(60);
/// Most bytes of a client's message, in however many frames.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// Most bytes of a frame's head (RFC 6455, 5.2).
const MAX_HEAD_BYTES: usize = 14;
/// Most frames of a client, pings and pieces included, in [`FRAMES_TIME`].
pub const MAX_FRAMES: u32 = 100;
/// The time in which they are counted.
pub const FRAMES_TIME: Duration = Duration::from_secs(10);
/// How long a client may take to close its side.
const CLOSE_TIME: Duration = Duration::from_secs(5);
/// About as many bytes are handed to the connection at a time.
const CHUNK: usize = 64 * 1024;

/// What is done about a client's request. An error ends the stream.
pub type Handler = Box<dyn Fn(FromClient) -> Work>;
/// Its doing.
pub type Work = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// A WebSocket that follows an open stream to its end.
pub struct Socket {
    talk: Result<(Open, Handler), Error>,
    metrics: EventMetrics,
}

impl Socket {
    pub(super) fn new(open: Open, handler: Handler, metrics: EventMetrics) -> Self {
        Self { talk: Ok((open, handler)), metrics }
    }

    pub(super) fn refusing(why: Error, metrics: EventMetrics) -> Self {
        Self { talk: Err(why), metrics }
    }
}

impl Upgrade for Socket {
    fn response(self, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Error> {
        // The pipeline has looked at the handshake already.
        let mut response = ws::handshake(request.head()).map_err(Error::internal)?;
        let mut body = Body {
            open: None,
            handler: None,
            metrics: self.metrics,
            payload,
            codec: Codec::new().max_size(MAX_MESSAGE_BYTES),
            incoming: BytesMut::new(),
            pieces: None,
            working: None,
            out: BytesMut::new(),
            sent: Cursor::nowhere(),
            pulse: Pulse::new(Instant::now()),
            allowance: Allowance::new(Instant::now()),
            phase: Phase::Talking,
        };
        match self.talk {
            Ok((open, handler)) => {
                body.sent = open.from.clone();
                // With a place to resume from, for whoever is cut off before anything happens.
                body.write(Message::Binary(frames::pong(&open.from)));
                (body.open, body.handler) = (Some(open), Some(handler));
            }
            Err(why) => body.fail(&why, CloseCode::Policy),
        }
        Ok(response.message_body(body).map_err(Error::internal)?.map_into_boxed_body().into())
    }
}

struct Body {
    /// Let go of as soon as nothing more is sent.
    open: Option<Open>,
    handler: Option<Handler>,
    metrics: EventMetrics,
    payload: Payload,
    codec: Codec,
    /// What has come and is no whole frame yet.
    incoming: BytesMut,
    /// A message of which pieces are missing.
    pieces: Option<(Form, BytesMut)>,
    /// What is being done about the last message. No other is read meanwhile.
    working: Option<Work>,
    /// What is handed to the connection next.
    out: BytesMut,
    /// The cursor of what was sent last.
    sent: Cursor,
    pulse: Pulse,
    allowance: Allowance,
    phase: Phase,
}

enum Phase {
    Talking,
    /// The server has closed its side, and waits for the client to close the other: a connection that is cut with bytes unread is
    /// reset, and the client might never see why. There is a limit from when the connection has taken what it was handed.
    Parting(Option<Pin<Box<Sleep>>>),
    Over,
}

#[derive(Clone, Copy)]
enum Form {
    Text,
    Binary,
}

impl MessageBody for Body {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let body = self.get_mut();
        loop {
            if let Phase::Talking = body.phase {
                body.listen(context);
            }
            if let Phase::Talking = body.phase
                && let Some(large) = body.speak(context)
            {
                return Poll::Ready(Some(Ok(large)));
            }
            if !body.out.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut body.out).freeze())));
            }
            match body.phase {
                Phase::Talking => return Poll::Pending,
                Phase::Parting(_) => ready!(body.part(context)),
                Phase::Over => return Poll::Ready(None),
            }
        }
    }
}

impl Body {
    /// Deals with what the client has sent, as far as that goes.
    fn listen(&mut self, context: &mut Context<'_>) {
        while let Phase::Talking = self.phase {
            if let Some(work) = &mut self.working {
                match work.as_mut().poll(context) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => self.working = None,
                    Poll::Ready(Err(error)) => return self.fail(&error, CloseCode::Policy),
                }
            }
            match self.codec.decode(&mut self.incoming) {
                Ok(Some(frame)) => self.hear(frame),
                // The codec would gather what it is going to refuse.
                Ok(None) if self.incoming.len() > MAX_MESSAGE_BYTES + MAX_HEAD_BYTES => self.fail_by_size(),
                Ok(None) => match ready_or(Pin::new(&mut self.payload).poll_next(context)) {
                    None => return,
                    Some(Some(Ok(bytes))) => self.incoming.extend_from_slice(&bytes),
                    // The client is gone.
                    Some(Some(Err(_)) | None) => self.end(),
                },
                Err(ProtocolError::Overflow) => self.fail_by_size(),
                Err(why) => {
                    let error = Code::InvalidRequest.because(format!("the WebSocket protocol was violated: {why}"));
                    self.fail(&error, CloseCode::Protocol);
                }
            }
            if self.incoming.is_empty() {
                // An idle stream holds no buffer.
                self.incoming = BytesMut::new();
            }
        }
    }

    /// Deals with a frame.
    fn hear(&mut self, frame: Frame) {
        let now = Instant::now();
        self.pulse.heard();
        if !self.allowance.admits(now) {
            let message = format!("more than {MAX_FRAMES} frames arrived within {} s", FRAMES_TIME.as_secs());
            return self.fail(&Code::RateLimitExceeded.because(message), CloseCode::Policy);
        }
        match frame {
            Frame::Ping(bytes) => self.write(Message::Pong(bytes)),
            Frame::Pong(_) => {}
            Frame::Close(reason) => {
                // The code comes back; a description is for people, and need not.
                self.write(Message::Close(reason.map(|reason| reason.code.into())));
                self.end();
            }
            Frame::Text(bytes) => self.take(Form::Text, &bytes),
            Frame::Binary(bytes) => self.take(Form::Binary, &bytes),
            Frame::Continuation(Item::FirstText(bytes)) => self.pieces = Some((Form::Text, BytesMut::from(&*bytes))),
            Frame::Continuation(Item::FirstBinary(bytes)) => {
                self.pieces = Some((Form::Binary, BytesMut::from(&*bytes)));
            }
            Frame::Continuation(Item::Continue(bytes)) => self.add_piece(&bytes),
            Frame::Continuation(Item::Last(bytes)) => {
                self.add_piece(&bytes);
                if let Some((form, whole)) = self.pieces.take() {
                    self.take(form, &whole);
                }
            }
        }
    }

    fn add_piece(&mut self, bytes: &[u8]) {
        let Some((_, pieces)) = &mut self.pieces else { return };
        if pieces.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return self.fail_by_size();
        }
        pieces.extend_from_slice(bytes);
    }

    /// Deals with a whole message.
    fn take(&mut self, form: Form, bytes: &[u8]) {
        let said = match form {
            Form::Text => FromClient::from_json(bytes),
            Form::Binary => FromClient::from_cbor(bytes),
        };
        match said {
            Ok(FromClient::Unknown) => {}
            Ok(FromClient::Ping {}) => self.write(Message::Binary(frames::pong(&self.sent))),
            Ok(said) => self.working = self.handler.as_ref().map(|handler| handler(said)),
            Err(why) => {
                let error = Code::InvalidRequest.because(format!("a message cannot be read: {why}"));
                self.fail(&error, CloseCode::Invalid);
            }
        }
    }

    /// Gathers what is there for the client. One large event is returned instead, so that it is not copied.
    fn speak(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        while self.out.len() < CHUNK {
            let open = self.open.as_ref()?;
            match open.subscriber.next(context.waker()) {
                Ok(Some(Waiting::Event(event, cursor))) => {
                    self.metrics.event_delivered(event.event.name());
                    self.sent = cursor.clone();
                    let frame = rendered(&event, &cursor);
                    if self.out.is_empty() && frame.len() >= CHUNK {
                        return Some(frame);
                    }
                    self.out.extend_from_slice(&frame);
                }
                Ok(Some(Waiting::Beat(cursor))) => {
                    let pulse = cursor.is_none();
                    if let Some(cursor) = cursor {
                        self.sent = cursor;
                    }
                    match self.pulse.beat(Instant::now(), pulse) {
                        Beat::Quiet => {}
                        Beat::Ping => self.write(Message::Ping(Bytes::new())),
                        Beat::Dead => {
                            self.metrics.stream_ended("silent");
                            self.write(close(CloseCode::Policy, "no pong arrived"));
                            self.end();
                        }
                    }
                }
                Ok(None) => break,
                Err(End::Over) => self.close(CloseCode::Normal, "the subscription has ended"),
                Err(End::Told(info)) => self.bid_farewell(info),
            }
        }
        None
    }

    fn bid_farewell(&mut self, info: Info) {
        let seed = self.open.as_ref().map_or(0, |open| open.subscriber.id);
        let (event, _) = Published::farewell(info, self.sent.clone(), seed);
        self.metrics.event_delivered(event.event.name());
        self.metrics.stream_ended(info.name());
        self.write(Message::Binary(frames::event(&event, &self.sent)));
        match info {
            Info::SlowConsumer => {
                let message = "events happen faster than you take them; connect again with your cursor";
                self.fail(&Code::ConsumerTooSlow.because(message), CloseCode::Policy);
            }
            Info::Suspended => self.fail(&suspended(), CloseCode::Policy),
            Info::Replaced => self.close(CloseCode::Policy, "you have opened more streams than you may have"),
            Info::IdentityChanged => {
                self.close(CloseCode::Policy, "the key that opened this subscription is no longer yours")
            }
            Info::Draining => self.close(CloseCode::Away, "this replica is shutting down"),
            Info::Reset | Info::Replayed | Info::Expired => {
                self.close(CloseCode::Restart, "connect again with your cursor");
            }
        }
    }

    fn fail_by_size(&mut self) {
        let error = Code::PayloadTooLarge.because(format!("a message has more than {MAX_MESSAGE_BYTES} bytes"));
        self.fail(&error, CloseCode::Size);
    }

    /// Says what went wrong, and closes.
    fn fail(&mut self, error: &Error, code: CloseCode) {
        self.metrics.error(error.code);
        self.write(Message::Binary(frames::error(error)));
        self.close(code, error.code.name());
    }

    fn close(&mut self, code: CloseCode, why: &str) {
        self.write(close(code, why));
        self.end();
        self.phase = Phase::Parting(None);
    }

    /// Lets go of everything but what is still to be handed to the connection.
    fn end(&mut self) {
        (self.open, self.handler, self.working, self.pieces) = (None, None, None, None);
        self.phase = Phase::Over;
    }

    /// Waits until the client has closed its side, in whatever way. What else it sends does not matter, nor whether it can be read.
    fn part(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Phase::Parting(limit) = &mut self.phase else { return Poll::Ready(()) };
        let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIME)));
        while limit.as_mut().poll(context).is_pending() {
            match self.codec.decode(&mut self.incoming) {
                Ok(Some(Frame::Close(_))) => break,
                Ok(Some(_)) => {}
                Ok(None) if self.incoming.len() <= MAX_MESSAGE_BYTES + MAX_HEAD_BYTES => {
                    match ready!(Pin::new(&mut self.payload).poll_next(context)) {
                        Some(Ok(bytes)) => self.incoming.extend_from_slice(&bytes),
                        Some(Err(_)) | None => break,
                    }
                }
                Ok(None) | Err(_) => self.incoming.clear(),
            }
        }
        self.phase = Phase::Over;
        Poll::Ready(())
    }

    fn write(&mut self, message: Message) {
        write(message, &mut self.out);
    }
}

/// `None` while it is pending.
fn ready_or<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn close(code: CloseCode, why: &str) -> Message {
    Message::Close(Some(CloseReason { code, description: Some(why.to_owned()) }))
}

fn write(message: Message, out: &mut BytesMut) {
    Codec::new().encode(message, out).expect("only messages in pieces can come in a wrong order");
}

/// An event's frame. Those who were given the same cursor share it.
fn rendered(event: &Published, cursor: &Cursor) -> Bytes {
    let frame = || {
        let mut frame = BytesMut::new();
        write(Message::Binary(frames::event(event, cursor)), &mut frame);
        frame.freeze()
    };
    if *cursor == event.cursor { event.frame.get_or_init(frame).clone() } else { frame() }
}

/// Whether the client is there, by what it says when it is pinged. Measured at the stream's signs of life, which come every
/// [`HEARTBEAT`].
struct Pulse {
    /// When it was pinged last, or connected.
    pinged: Instant,
    /// When it was pinged without having said anything since.
    unanswered: Option<Instant>,
}

#[derive(Debug, PartialEq, Eq)]
enum Beat {
    Quiet,
    Ping,
    Dead,
}

impl Pulse {
    fn new(now: Instant) -> Self {
        Self { pinged: now, unanswered: None }
    }

    /// Anything is as good as a pong.
    fn heard(&mut self) {
        self.unanswered = None;
    }

    /// At a sign of life, which may be out of turn because somebody wants to know.
    fn beat(&mut self, now: Instant, out_of_turn: bool) -> Beat {
        if self.unanswered.is_some_and(|since| now.duration_since(since) >= PONG_TIME) {
            return Beat::Dead;
        }
        // The clock of all streams may be late by a little.
        let due = now.duration_since(self.pinged) >= PING_EVERY - HEARTBEAT / 2;
        let asked = out_of_turn && self.unanswered.is_none();
        if !due && !asked {
            return Beat::Quiet;
        }
        self.pinged = now;
        self.unanswered.get_or_insert(now);
        Beat::Ping
    }
}

/// What a client may still send.
struct Allowance {
    since: Instant,
    frames: u32,
}

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { since: now, frames: 0 }
    }

    fn admits(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since) >= FRAMES_TIME {
            *self = Self::new(now);
        }
        self.frames += 1;
        self.frames <= MAX_FRAMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_pinged_every_other_beat_and_given_up_when_it_stays_silent() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(pulse.beat(at(15), false), Beat::Quiet);
        assert_eq!(pulse.beat(at(30), false), Beat::Ping);
        pulse.heard();
        assert_eq!(pulse.beat(at(45), false), Beat::Quiet);
        assert_eq!(pulse.beat(at(59), false), Beat::Ping, "the clock may be early");
        assert_eq!(pulse.beat(at(75), false), Beat::Quiet);
        assert_eq!(pulse.beat(at(90), false), Beat::Ping);
        assert_eq!(pulse.beat(at(118), false), Beat::Ping);
        assert_eq!(pulse.beat(at(119), false), Beat::Dead, "a minute after the first that was not answered");
        pulse.heard();
        assert_eq!(pulse.beat(at(120), false), Beat::Quiet);
        assert_eq!(pulse.beat(at(121), true), Beat::Ping, "somebody wants to know");
        assert_eq!(pulse.beat(at(122), true), Beat::Quiet, "and is about to");
    }

    #[test]
    fn frames_are_counted_anew_after_their_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert!((0..MAX_FRAMES).all(|_| allowance.admits(start)));
        assert!(!allowance.admits(start));
        assert!(allowance.admits(start + FRAMES_TIME));
    }
}
