//! One open stream: its position, and the events that wait for its client.
//!
//! All of it is behind one lock, which may be taken while the lock of the hub is held, but not the other way round. An
//! idle stream holds no buffer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::auth::key::PublicKey;
use crate::ids::{ConvoId, Did};
use crate::store::events::EventPayload;

use super::cursor::Cursor;
use super::event::{Info, Published, Row};
use super::identities;

/// Most bytes that wait for one client, unless a single event has more.
pub const MAX_WAITING_BYTES: usize = 32 * 1024 * 1024;
/// Maximum age of a stream, give or take a quarter. The next stream proves its caller again, so a token that was stolen
/// once does not serve for ever.
pub const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// Low-water mark of a client that catches up: more is read for it when no more than this waits.
const LOW_EVENTS: usize = 256;
const LOW_BYTES: usize = 4 * 1024 * 1024;

/// An open stream.
pub struct Subscriber {
    /// Number of the stream in this replica.
    pub id: u64,
    pub did: Did,
    /// Key that proved the caller; `None` for a development token.
    pub(super) key: Option<PublicKey>,
    /// The only conversation that it follows, if it follows one.
    pub only: Option<ConvoId>,
    /// End of its maximum age.
    pub(super) until: Instant,
    state: Mutex<State>,
    /// Notified when the client has read, or the stream has ended.
    pub(super) moved: Notify,
}

/// Mutable part of a stream.
pub(super) struct State {
    pub phase: Phase,
    /// Time of the next check of the caller ([`identities`]).
    pub identify_at: Instant,
    /// Conversations to which it is attached, by the names that the hub has for them.
    pub convos: Vec<Arc<str>>,
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// Newest read position and cursor of each conversation, to be sent after the entries up to there.
    positions: HashMap<(ConvoId, PositionKind), Arc<Row>>,
    waker: Option<Waker>,
    end: Option<End>,
}

/// Kind of a position that one device of the caller reports to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PositionKind {
    Read,
    Cursor,
}

/// Something that is sent to the client next.
pub enum Outgoing {
    /// An event, and the cursor that goes with it.
    Event(Arc<Published>, Cursor),
    /// A keepalive. It has a cursor if everything before the cursor has been sent.
    Keepalive(Option<Cursor>),
}

/// Reason for which a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server ends it, and sends this as the final event.
    Announced(Info),
    /// The conversation that it follows has ended for the caller, which has been sent that.
    Finished,
}

/// Source of a stream's events. docs/events.md proves that this order loses nothing.
pub(super) enum Phase {
    /// A task of its own, which reads the log. Rows are held until it has come as far as the tail.
    CatchingUp {
        /// Everything that this cursor saw has been sent.
        from: Cursor,
        /// Rows that have come in the meantime, oldest first.
        held: Vec<Arc<Row>>,
        /// Bytes of these rows.
        held_bytes: usize,
        /// Pass that was running, or the last one, when it was attached; `None` before that.
        attached: Option<u64>,
        /// The client gave a cursor, and is sent `replayed` when it has caught up.
        tell: bool,
        /// Index in `convos` of the first conversation that lacked entries at the last look.
        looked: usize,
    },
    /// The tail, which still has to send entries that others have had. Events carry the old cursor until then.
    Joining {
        from: Cursor,
        /// Pass that was running, or the last one, when this phase began.
        since: u64,
        tell: bool,
    },
    /// The tail.
    Live,
}

impl Subscriber {
    pub(super) fn new(id: u64, did: Did, key: Option<PublicKey>, only: Option<ConvoId>, from: Cursor) -> Self {
        let phase = Phase::CatchingUp { from, held: Vec::new(), held_bytes: 0, attached: None, tell: false, looked: 0 };
        // Spreads the ends and checks of streams that were opened together.
        let fraction = 0.75 + (id.wrapping_mul(0x9E37_79B9) % 1_000) as f64 / 2_000.0;
        let now = Instant::now();
        let (until, identify_at) =
            (now + MAX_AGE.mul_f64(fraction), now + identities::CHECK_INTERVAL.mul_f64(fraction));
        let (convos, waiting) = (Vec::new(), VecDeque::new());
        let positions = HashMap::new();
        let state = State { phase, identify_at, convos, waiting, bytes: 0, positions, waker: None, end: None };
        Self { id, did, key, only, until, state: Mutex::new(state), moved: Notify::new() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the stream follows this conversation. Events without one are for streams of all conversations.
    pub(super) fn wants(&self, convo: Option<&ConvoId>) -> bool {
        self.only.as_ref().is_none_or(|only| Some(only) == convo)
    }

    /// Takes what is sent to the client next. `Ok(None)`: nothing waits, and `waker` is woken when that changes. `Err`: the stream has
    /// ended.
    pub(crate) fn next(&self, waker: &Waker) -> Result<Option<Outgoing>, End> {
        let mut state = self.state();
        match state.waiting.pop_front() {
            Some(next) => {
                if let Outgoing::Event(event, _) = &next {
                    state.bytes -= event.size;
                }
                if state.waiting.is_empty() {
                    // An idle stream holds no buffer.
                    state.waiting = VecDeque::new();
                }
                drop(state);
                self.moved.notify_one();
                Ok(Some(next))
            }
            None => match state.end {
                Some(end) => Err(end),
                None => {
                    state.waker = Some(waker.clone());
                    Ok(None)
                }
            },
        }
    }

    /// Returns why the stream was cut off, if it was: what waits is not sent. Otherwise `waker` is woken when that changes.
    pub(crate) fn cut(&self, waker: &Waker) -> Option<End> {
        let mut state = self.state();
        match state.end {
            Some(End::Finished) => None,
            Some(cut) => Some(cut),
            None => {
                state.waker = Some(waker.clone());
                None
            }
        }
    }

    /// Waits until the client has read most of a buffer of `most` events. Returns false if the stream has ended.
    pub(super) async fn wait_for_room(&self, most: usize) -> bool {
        let low = LOW_EVENTS.min(most / 2);
        loop {
            {
                let state = self.state();
                if state.end.is_some() {
                    return false;
                }
                if state.waiting.len() <= low && state.bytes <= LOW_BYTES {
                    return true;
                }
            }
            self.moved.notified().await;
        }
    }

    /// Returns the cursor from which it still catches up.
    pub(super) fn begins_at(&self) -> Option<Cursor> {
        match &self.state().phase {
            Phase::CatchingUp { from, .. } | Phase::Joining { from, .. } => Some(from.clone()),
            Phase::Live => None,
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().has_ended()
    }

    /// Waits for the end of the stream.
    pub(super) async fn ended(&self) {
        while !self.has_ended() {
            self.moved.notified().await;
        }
    }

    /// Ends the stream. Queued events are dropped, unless it has finished.
    pub(super) fn end(&self, end: End) {
        self.state().end(end);
        self.moved.notify_one();
    }
}

impl State {
    /// Queues an event within the bounds. Returns false if the client is too slow for them.
    pub fn push(&mut self, event: &Arc<Published>, most: usize) -> bool {
        let full = self.waiting.len() >= most || self.bytes + event.size > MAX_WAITING_BYTES;
        if full && !self.waiting.is_empty() {
            return false;
        }
        self.push_anyway(event);
        true
    }

    /// Queues an event that was read for this client because there was room.
    pub fn push_anyway(&mut self, event: &Arc<Published>) {
        if self.end.is_some() {
            return;
        }
        let cursor = match &mut self.phase {
            Phase::CatchingUp { from, .. } | Phase::Joining { from, .. } => {
                *from = from.beside(&event.cursor);
                from.clone()
            }
            Phase::Live => event.cursor.clone(),
        };
        self.bytes += event.size;
        self.waiting.push_back(Outgoing::Event(event.clone(), cursor));
        self.wake();
    }

    /// Queues a keepalive, unless something else is queued.
    pub fn keep_alive(&mut self, watermark: Cursor) {
        if self.waiting.is_empty() && self.end.is_none() {
            let cursor = matches!(self.phase, Phase::Live).then_some(watermark);
            self.waiting.push_back(Outgoing::Keepalive(cursor));
            self.wake();
        }
    }

    pub fn end(&mut self, end: End) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        if end != End::Finished {
            self.waiting = VecDeque::new();
            self.bytes = 0;
            self.positions = HashMap::new();
            if let Phase::CatchingUp { held, held_bytes, .. } = &mut self.phase {
                (*held, *held_bytes) = (Vec::new(), 0);
            }
        }
        self.wake();
    }

    pub fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Holds a position until it may be sent. Positions only move forward, so the next one replaces it.
    pub fn hold_position(&mut self, convo: &ConvoId, row: &Arc<Row>) {
        let kind =
            if matches!(row.what, EventPayload::Read { .. }) { PositionKind::Read } else { PositionKind::Cursor };
        self.positions.insert((convo.clone(), kind), row.clone());
    }

    /// Takes the held positions.
    pub fn take_positions(&mut self) -> Vec<(ConvoId, Arc<Row>)> {
        std::mem::take(&mut self.positions).into_iter().map(|((convo, _), row)| (convo, row)).collect()
    }

    /// Drops the held positions of a conversation that the caller has left.
    pub fn forget_positions(&mut self, convo: &ConvoId) {
        self.positions.retain(|(name, _), _| name != convo);
    }

    /// Bytes that wait for the client.
    pub fn bytes(&self) -> usize {
        match self.phase {
            Phase::CatchingUp { held_bytes, .. } => self.bytes + held_bytes,
            _ => self.bytes,
        }
    }

    /// Holds a row for a stream that catches up. Returns false if there are too many.
    pub fn hold(&mut self, row: &Arc<Row>, most: usize) -> bool {
        let Phase::CatchingUp { held, held_bytes, .. } = &mut self.phase else { return false };
        if held.len() >= most || *held_bytes + row.size > MAX_WAITING_BYTES {
            return false;
        }
        *held_bytes += row.size;
        held.push(row.clone());
        true
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
