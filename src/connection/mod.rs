//! Connections below the HTTP library: when a socket is read, and how long its peer may take.
//!
//! The library limits the time of a connection's first head only, reads everything as soon as it arrives, and waits for
//! ever for a peer that reads a little of a reply now and then. A [`Socket`] therefore sits between the library and
//! TCP. It hands over one whole head, then a part of the body each time that the request asks for more, and then nothing
//! until the reply is read. Further bytes wait in the kernel, and TCP makes the peer wait. [`begin`] and [`answer`] report
//! the progress of a request.
//!
//! - A head must arrive within [`HEAD_TIME`] of its first byte. Few long heads may arrive at once.
//! - A reply must be read at [`crate::timing::MIN_RATE`], with [`TAKE_GRACE`] on top. Time in which the server has nothing
//!   to send does not count.
//! - Bodies are timed by their readers.
//! - The library's replies to unreadable heads are sent in the form of all errors.

mod chunks;
mod discard;
mod files;
mod head;
mod metrics;
mod socket;
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Semaphore;

use crate::config::Config;
use discard::Discard;

pub use files::room;
pub use metrics::ConnectionMetrics;
pub use socket::Socket;
pub use watch::{Watched, answer, asks_for_websocket, begin};

/// Maximum time for a client to send a request's head, from its first byte on.
pub const HEAD_TIME: Duration = Duration::from_secs(10);
/// Maximum size of a head. This is the library's own limit, beyond which it answers 431.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Size from which a head counts as long.
const LONG_HEAD_BYTES: usize = 8 * 1024;
/// Maximum number of long heads that arrive at once.
pub const MAX_LONG_HEADS: usize = 512;
/// Most bytes of a body that are read ahead of its reader. The library would read 128 KiB, and as much again while those wait. Its
/// buffer takes twice as much as it reads.
const BODY_AHEAD: usize = 32 * 1024;
/// Time for which a client may read a reply too slowly. For a stream it starts again whenever the client has read
/// everything.
pub const TAKE_GRACE: Duration = Duration::from_secs(30);
/// Time for which the rest of an unread body is still accepted, so that the client sees the reply before the connection
/// closes ([`discard`]).
const LINGER: Duration = Duration::from_secs(2);

/// Most HTTP connections at once: the setting, or fewer if the limit on open files requires it.
pub fn max_connections(config: &Config) -> usize {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(now, _)| now);
    config.max_connections.min(room(files, config.database_max_connections)).max(1)
}

/// Reasons for which the server ends a connection.
#[derive(Debug, Clone, Copy)]
pub enum Ended {
    /// A head took too long.
    Head,
    /// Too many long heads were arriving.
    LongHeads,
    /// A reply was not read.
    Reply,
    /// An unread body did not end.
    Body,
}

impl Ended {
    /// All reasons.
    const ALL: [Self; 4] = [Self::Head, Self::LongHeads, Self::Reply, Self::Body];

    pub fn label(self) -> &'static str {
        match self {
            Ended::Head => "head_too_slow",
            Ended::LongHeads => "long_heads",
            Ended::Reply => "reply_not_taken",
            Ended::Body => "unread_body",
        }
    }
}

/// Returns the reply to send in place of bytes that the library sends for a head that it could not parse, or `None` for any other bytes.
/// The flag is true if pages of any origin may read the reply.
pub type Replace = fn(&[u8], bool) -> Option<Vec<u8>>;

/// State shared by all connections of a listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connections {
    /// True if pages of any origin may read the replies.
    open: bool,
    replace: Replace,
    long_heads: Arc<Semaphore>,
    discard: Discard,
}

impl Connections {
    /// Creates the state of one listener, for all clients (`open`) or for operators. `replace` replaces the library's own replies.
    pub fn new(open: bool, replace: Replace) -> Self {
        Self { open, replace, long_heads: Arc::new(Semaphore::new(MAX_LONG_HEADS)), discard: Discard::default() }
    }
}

/// Phase of the request on a connection, which decides what may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The next head.
    Head,
    /// Nothing: a head was handed over, and the request is running or its reply is being sent.
    Request,
    /// This many bytes of the body, because the request asks for more.
    Body(usize),
    /// The rest of a body, to be discarded at the rate of [`discard`].
    Discard,
}

/// Part of a request's body that has not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// A number of bytes.
    Bytes(u64),
    /// Chunks up to an empty one.
    Chunks,
    /// Everything up to the end of the connection: the frames of a WebSocket.
    Everything,
}

/// State shared by a socket and the requests on it.
#[derive(Debug)]
struct State {
    phase: Cell<Phase>,
    left: Cell<Left>,
    /// True if the library has parsed the last head as a request.
    begun: Cell<bool>,
    /// True if the reply being sent has a known length and is not a stream.
    sized: Cell<bool>,
    /// Waker of the reader, for when more may be read.
    reader: RefCell<Option<Waker>>,
}

/// A connection, as its requests see it. Cheap to clone.
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

    /// Records a new request with this much of its body to come.
    fn begin(&self, left: Left) {
        self.0.left.set(left);
        self.0.begun.set(true);
    }

    /// Records that the reader of the body waits for more.
    fn want_body(&self) {
        if matches!(self.0.phase.get(), Phase::Request | Phase::Body(_)) && self.0.left.get() != Left::Nothing {
            self.enter(Phase::Body(BODY_AHEAD));
        }
    }

    /// Records that bytes of the body were handed over.
    fn body_came(&self, bytes: usize) {
        if let Phase::Body(wanted) = self.0.phase.get() {
            self.0.phase.set(Phase::Body(wanted.saturating_sub(bytes)));
        }
    }

    /// Records that the body is complete.
    fn body_ended(&self) {
        self.0.left.set(Left::Nothing);
        self.no_more_body();
    }

    /// Records that the body is no longer being read.
    fn no_more_body(&self) {
        if matches!(self.0.phase.get(), Phase::Body(_)) {
            self.0.phase.set(Phase::Request);
        }
    }

    /// Records that a reply starts, of known length or not.
    fn reply(&self, sized: bool) {
        self.0.sized.set(sized);
    }

    /// Records that the library has the whole reply.
    fn replied(&self) {
        self.0.sized.set(false);
        match self.0.left.get() {
            Left::Nothing => self.enter(Phase::Head),
            Left::Bytes(_) | Left::Chunks | Left::Everything => self.enter(Phase::Discard),
        }
    }
}
