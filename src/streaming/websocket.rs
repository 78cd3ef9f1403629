//! An open stream as a WebSocket (RFC 6455).
//!
//! The body of the reply also reads what the client sends: one message at a time, and only when the connection asks for more. So a client
//! that takes nothing is not read either.

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

use crate::bodies::Bodies;
use crate::config::KEEPALIVE_INTERVAL;
use crate::error::{Code, Error};
use crate::events::EventMetrics;
use crate::events::OpenStream;
use crate::events::cursor::Cursor;
use crate::events::event::{Info, Published};
use crate::events::subscriber::End;
use crate::suspensions::suspended;
use crate::xrpc::Upgrade;

use super::drain::{Drain, Drained, Framing};
use super::frame_quota::{FRAME_WINDOW, FrameQuota, MAX_FRAMES};
use super::frames::{self, FromClient};
use super::heartbeat::{Beat, Heartbeat};

/// Most bytes of a client's message, in however many frames.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024;
/// Most bytes of a frame's head (RFC 6455, section 5.2).
const MAX_HEAD_BYTES: usize = 14;
/// Longest wait for the client to close its side.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Place of a frame in [`Published::encoded`].
const FRAME: usize = 2;

/// Executes a client's request. An error ends the stream.
pub type Handler = Box<dyn Fn(FromClient) -> Running>;
/// Future of a request that is being executed.
pub type Running = Pin<Box<dyn Future<Output = Result<(), Error>>>>;

/// A WebSocket that follows an open stream to its end, or only reports an error.
pub struct WebSocket {
    stream: Result<(OpenStream, Bodies, Handler), Error>,
    metrics: EventMetrics,
}

impl WebSocket {
    /// A WebSocket that follows `open`, and hands the client's requests to `handler`.
    pub fn new(open: OpenStream, handler: Handler, bodies: Bodies, metrics: EventMetrics) -> Self {
        Self { stream: Ok((open, bodies, handler)), metrics }
    }

    /// A WebSocket that reports `error` and closes. Browsers show their pages nothing of a refused handshake.
    pub fn refusing(error: Error, metrics: EventMetrics) -> Self {
        Self { stream: Err(error), metrics }
    }
}

impl Upgrade for WebSocket {
    fn response(self, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Error> {
        // The pipeline has verified the handshake already.
        let mut response = ws::handshake(request.head()).map_err(Error::internal)?;
        let now = Instant::now();
        // A socket that only reports an error has no keepalives.
        let keepalive = self.stream.as_ref().map_or(KEEPALIVE_INTERVAL, |(open, ..)| open.keepalive);
        let mut body = Body {
            drain: None,
            handler: None,
            metrics: self.metrics,
            payload,
            codec: Codec::new().max_size(MAX_MESSAGE_BYTES),
            incoming: BytesMut::new(),
            fragments: None,
            running: None,
            out: BytesMut::new(),
            frames: Frames { heartbeat: Heartbeat::new(keepalive, now) },
            quota: FrameQuota::new(now),
            phase: Phase::Open,
        };
        match self.stream {
            Ok((open, bodies, handler)) => {
                // The first message carries a cursor, for a client that is cut off before the first event.
                body.write(Message::Binary(frames::pong(&open.from)));
                (body.drain, body.handler) = (Some(Drain::new(open, bodies, body.metrics.clone())), Some(handler));
            }
            Err(error) => body.fail(&error, CloseCode::Policy),
        }
        Ok(response.message_body(body).map_err(Error::internal)?.map_into_boxed_body().into())
    }
}

struct Body {
    /// Dropped as soon as nothing more is sent.
    drain: Option<Drain>,
    handler: Option<Handler>,
    metrics: EventMetrics,
    payload: Payload,
    codec: Codec,
    /// Bytes of an incomplete frame.
    incoming: BytesMut,
    /// An incomplete message of several frames.
    fragments: Option<(Form, BytesMut)>,
    /// Execution of the last message. The next one is not read before it ends.
    running: Option<Running>,
    /// Bytes for the connection.
    out: BytesMut,
    frames: Frames,
    quota: FrameQuota,
    phase: Phase,
}

enum Phase {
    Open,
    /// The server has closed its side and waits for the client to close the other. TCP resets a connection that is closed with unread
    /// bytes, and the client might lose the close frame. The wait is limited from when the connection has taken all that was sent.
    Closing(Option<Pin<Box<Sleep>>>),
    Closed,
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
            if let Phase::Open = body.phase {
                body.receive(context);
            }
            if let Phase::Open = body.phase
                && let Some(large) = body.send(context)
            {
                return Poll::Ready(Some(Ok(large)));
            }
            if !body.out.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut body.out).freeze())));
            }
            match body.phase {
                Phase::Open => return Poll::Pending,
                Phase::Closing(_) => ready!(body.poll_closed(context)),
                Phase::Closed => return Poll::Ready(None),
            }
        }
    }
}

impl Body {
    /// Executes what the client has sent, until that has to wait.
    fn receive(&mut self, context: &mut Context<'_>) {
        while let Phase::Open = self.phase {
            if let Some(running) = &mut self.running {
                match running.as_mut().poll(context) {
                    Poll::Pending => return,
                    Poll::Ready(Ok(())) => self.running = None,
                    Poll::Ready(Err(error)) => return self.fail(&error, CloseCode::Policy),
                }
            }
            match self.codec.decode(&mut self.incoming) {
                Ok(Some(frame)) => self.handle_frame(frame),
                // The codec would buffer a frame that it is going to refuse.
                Ok(None) if self.incoming.len() > MAX_MESSAGE_BYTES + MAX_HEAD_BYTES => self.fail_by_size(),
                Ok(None) => match Pin::new(&mut self.payload).poll_next(context) {
                    Poll::Pending => return,
                    Poll::Ready(Some(Ok(bytes))) => self.incoming.extend_from_slice(&bytes),
                    // The client is gone.
                    Poll::Ready(Some(Err(_)) | None) => self.end(),
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

    fn handle_frame(&mut self, frame: Frame) {
        let now = Instant::now();
        self.frames.heartbeat.received();
        if !self.quota.admit(now) {
            let message = format!("more than {MAX_FRAMES} frames arrived within {} s", FRAME_WINDOW.as_secs());
            return self.fail(&Code::RateLimitExceeded.because(message), CloseCode::Policy);
        }
        match frame {
            Frame::Ping(bytes) => self.write(Message::Pong(bytes)),
            Frame::Pong(_) => {}
            Frame::Close(reason) => {
                // The code is echoed. The description is for people and is not.
                self.write(Message::Close(reason.map(|reason| reason.code.into())));
                self.end();
            }
            Frame::Text(bytes) => self.handle_message(Form::Text, &bytes),
            Frame::Binary(bytes) => self.handle_message(Form::Binary, &bytes),
            Frame::Continuation(Item::FirstText(bytes)) => {
                self.fragments = Some((Form::Text, BytesMut::from(&*bytes)));
            }
            Frame::Continuation(Item::FirstBinary(bytes)) => {
                self.fragments = Some((Form::Binary, BytesMut::from(&*bytes)));
            }
            Frame::Continuation(Item::Continue(bytes)) => self.add_fragment(&bytes),
            Frame::Continuation(Item::Last(bytes)) => {
                self.add_fragment(&bytes);
                if let Some((form, whole)) = self.fragments.take() {
                    self.handle_message(form, &whole);
                }
            }
        }
    }

    fn add_fragment(&mut self, bytes: &[u8]) {
        let Some((_, fragments)) = &mut self.fragments else { return };
        if fragments.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return self.fail_by_size();
        }
        fragments.extend_from_slice(bytes);
    }

    fn handle_message(&mut self, form: Form, bytes: &[u8]) {
        let message = match form {
            Form::Text => FromClient::from_json(bytes),
            Form::Binary => FromClient::from_cbor(bytes),
        };
        match message {
            Ok(FromClient::Unknown) => {}
            Ok(FromClient::Ping {}) => {
                if let Some(pong) = self.drain.as_ref().map(|drain| frames::pong(drain.cursor())) {
                    self.write(Message::Binary(pong));
                }
            }
            Ok(request) => self.running = self.handler.as_ref().map(|handler| handler(request)),
            Err(why) => {
                let error = Code::InvalidRequest.because(format!("a message cannot be read: {why}"));
                self.fail(&error, CloseCode::Invalid);
            }
        }
    }

    /// Gathers what waits for the client. Returns a large event instead of copying it.
    fn send(&mut self, context: &mut Context<'_>) -> Option<Bytes> {
        let drain = self.drain.as_mut()?;
        match drain.fill(&mut self.frames, &mut self.out, context) {
            Drained::Gathered => {}
            Drained::Large(event, cursor) => return Some(event.encoded(FRAME, &cursor, || frame(&event, &cursor))),
            Drained::Gone => {
                self.write(close(CloseCode::Policy, "no pong arrived"));
                self.end();
            }
            Drained::Ended(End::Finished) => self.close(CloseCode::Normal, "the subscription has ended"),
            Drained::Ended(End::Announced(info)) => self.send_final_event(info),
        }
        None
    }

    fn send_final_event(&mut self, info: Info) {
        let Some(drain) = &self.drain else { return };
        let (event, _) = drain.final_event(info);
        let message = frames::event(&event, drain.cursor());
        self.write(Message::Binary(message));
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

    /// Sends an error, and closes.
    fn fail(&mut self, error: &Error, code: CloseCode) {
        self.metrics.error(error.code);
        self.write(Message::Binary(frames::error(error)));
        self.close(code, error.code.name());
    }

    fn close(&mut self, code: CloseCode, why: &str) {
        self.write(close(code, why));
        self.end();
        self.phase = Phase::Closing(None);
    }

    /// Drops everything but the bytes that are still to be handed to the connection.
    fn end(&mut self) {
        (self.drain, self.handler, self.running, self.fragments) = (None, None, None, None);
        self.phase = Phase::Closed;
    }

    /// Waits until the client has closed its side, by a close frame or by hanging up. Anything else that it sends is discarded.
    fn poll_closed(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Phase::Closing(limit) = &mut self.phase else { return Poll::Ready(()) };
        let limit = limit.get_or_insert_with(|| Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)));
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
        self.phase = Phase::Closed;
        Poll::Ready(())
    }

    fn write(&mut self, message: Message) {
        write(message, &mut self.out);
    }
}

/// Framing of an open stream: events and pings.
struct Frames {
    heartbeat: Heartbeat,
}

impl Framing for Frames {
    fn event(&self, event: &Published, cursor: &Cursor, out: &mut BytesMut) {
        out.extend_from_slice(&event.encoded(FRAME, cursor, || frame(event, cursor)));
    }

    fn keepalive(&mut self, cursor: Option<&Cursor>, out: &mut BytesMut) -> bool {
        match self.heartbeat.beat(Instant::now(), cursor.is_none()) {
            Beat::Quiet => {}
            Beat::Ping => write(Message::Ping(Bytes::new()), out),
            Beat::Dead => return false,
        }
        true
    }
}

fn close(code: CloseCode, why: &str) -> Message {
    Message::Close(Some(CloseReason { code, description: Some(why.to_owned()) }))
}

fn write(message: Message, out: &mut BytesMut) {
    Codec::new().encode(message, out).expect("only fragmented messages can come in a wrong order");
}

/// Returns the frame of an event.
fn frame(event: &Published, cursor: &Cursor) -> Bytes {
    let mut frame = BytesMut::new();
    write(Message::Binary(frames::event(event, cursor)), &mut frame);
    frame.freeze()
}
