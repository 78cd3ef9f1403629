//! The connections under the HTTP library: what of a socket is read and when, and how long its peer may take for it.
//!
//! The library times the first head of a connection, reads whatever comes as soon as it comes, and waits for ever for a peer that takes
//! a little of a reply now and then. So a [`Socket`] stands between it and TCP. It hands over one whole head at a time, then the body
//! when somebody asks for it, and then nothing until the reply is taken. What else the peer sends waits in the kernel, where TCP makes
//! the peer wait too. [`begin`] and [`answer`] tell it where a request is on its way.
//!
//! - A head has [`HEAD_TIME`] from its first byte on. Long ones are few at a time.
//! - A reply has to be taken at [`crate::xrpc::decode::MIN_RATE`], with [`TAKE_GRACE`] beyond what that needs.
//! - Bodies are timed by who reads them.
//! - What the library says of a head that it cannot read is said in the form of all errors.

mod chunks;
mod discard;
mod head;
mod refusal;
mod socket;
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::Semaphore;

use discard::Discard;

pub use socket::Socket;
pub use watch::{Watched, answer, asks_for_websocket, begin};

/// How long a client may take to send a request's head, from its first byte on.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// Most bytes of a head. The library's own limit: beyond it, it answers 431.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// A head that is longer than this is a long one.
const LONG_HEAD_BYTES: usize = 8 * 1024;
/// Most long heads that are on their way at once.
pub const MAX_LONG_HEADS: usize = 512;
/// How long a client may take a reply more slowly than it should. For a stream this begins anew whenever it has taken everything.
pub const TAKE_GRACE: Duration = Duration::from_secs(30);
/// How long what is left of a body that nobody reads may still come, so that the client sees the reply before the end ([`discard`]).
const LINGER: Duration = Duration::from_secs(2);

/// Why the server ended a connection.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    /// A head took too long.
    Head,
    /// Too many long heads are on their way.
    LongHeads,
    /// A reply was not taken.
    Reply,
    /// A body that nobody reads did not end.
    Body,
}

impl Ended {
    pub fn label(self) -> &'static str {
        match self {
            Ended::Head => "head_too_slow",
            Ended::LongHeads => "long_heads",
            Ended::Reply => "reply_not_taken",
            Ended::Body => "unread_body",
        }
    }
}

/// What all connections of a server share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Whether pages of any origin may read what is said here.
    open: bool,
    long_heads: Arc<Semaphore>,
    discard: Discard,
}

impl Connections {
    /// Those of one listener, for everybody (`open`) or for operators.
    pub fn new(open: bool) -> Self {
        Self { open, long_heads: Arc::new(Semaphore::new(MAX_LONG_HEADS)), discard: Discard::default() }
    }
}

/// Where a connection is on a request's way, and so what may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The next head.
    Head,
    /// Nothing: a head was handed over, and the request is worked on or its reply sent.
    Request,
    /// The body, since somebody asks for it.
    Body,
    /// What is left of a body, to be thrown away, not faster than [`discard`] says.
    Discard,
}

/// What of a request's body is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// Chunks up to an empty one.
    Chunks,
    /// Whatever comes until the connection ends: the frames of a WebSocket.
    Everything,
}

/// What the socket and the requests on it know of each other.
#[derive(Debug)]
struct State {
    phase: Cell<Phase>,
    left: Cell<Left>,
    /// Whether the library has made a request of the head that it has.
    begun: Cell<bool>,
    /// Whether what is sent just now is a reply of known length, not a stream.
    sized: Cell<bool>,
    /// Who is to be woken when more may be read.
    reader: RefCell<Option<Waker>>,
}

/// A connection, in the hands of the requests on it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connection(Rc<State>);

impl Connection {
    fn new() -> Self {
        Self(Rc::new(State {
            phase: Cell::new(Phase::Head),
            left: Cell::new(Left::Nothing),
            begun: Cell::new(true),
            sized: Cell::new(false),
            reader: RefCell::default(),
        }))
    }

    fn enter(&self, phase: Phase) {
        self.0.phase.set(phase);
        if let Some(reader) = self.0.reader.take() {
            reader.wake();
        }
    }

    /// A request has come, and so much of its body is still to come.
    fn begin(&self, left: Left) {
        self.0.left.set(left);
        self.0.begun.set(true);
    }

    /// Somebody reads the body.
    fn want_body(&self) {
        if self.0.phase.get() == Phase::Request && self.0.left.get() != Left::Nothing {
            self.enter(Phase::Body);
        }
    }

    /// The body is whole.
    fn body_ended(&self) {
        self.0.left.set(Left::Nothing);
        self.no_more_body();
    }

    /// Nobody reads the body any more.
    fn no_more_body(&self) {
        if self.0.phase.get() == Phase::Body {
            self.0.phase.set(Phase::Request);
        }
    }

    /// A reply begins, of known length or not.
    fn reply(&self, sized: bool) {
        self.0.sized.set(sized);
    }

    /// The library has all of the reply.
    fn replied(&self) {
        self.0.sized.set(false);
        match self.0.left.get() {
            Left::Nothing => self.enter(Phase::Head),
            Left::Bytes(_) | Left::Chunks | Left::Everything => self.enter(Phase::Discard),
        }
    }
}
