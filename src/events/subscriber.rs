//! One open stream: how far it has come, and what waits for its client to read it.
//!
//! Everything about it is behind one lock of its own, which is taken inside the hub's and never around it. An idle one holds no
//! buffer.

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
/// How long a stream stays open, give or take a quarter. Who it is was proved when it was opened, and is proved again by the next, so that
/// nobody follows for ever by a token that was stolen once.
pub const MAX_AGE: Duration = Duration::from_secs(60 * 60);
/// A client that catches up is read for again when no more than this waits for it.
const LOW_EVENTS: usize = 256;
const LOW_BYTES: usize = 4 * 1024 * 1024;

/// See the module.
pub struct Subscriber {
    /// Tells it from others of this replica.
    pub id: u64,
    pub did: Did,
    /// The key that has proved it, if it was one.
    pub(super) key: Option<PublicKey>,
    /// Only this conversation.
    pub only: Option<ConvoId>,
    /// When its life is over.
    pub(super) until: Instant,
    state: Mutex<State>,
    /// The client has read something, or the stream has ended.
    pub(super) moved: Notify,
}

/// What changes.
pub(super) struct State {
    pub phase: Phase,
    /// When it is to be looked at whether the caller is still who it was.
    pub identify_at: Instant,
    /// The conversations it is attached to, by the names that the hub has for them.
    pub convos: Vec<Arc<str>>,
    waiting: VecDeque<Outgoing>,
    bytes: usize,
    /// How far the caller has read and followed, to be told when the entries up to there have been sent: the newest of each conversation.
    positions: HashMap<(ConvoId, PositionKind), Arc<Row>>,
    waker: Option<Waker>,
    end: Option<End>,
}

/// What a device of the caller's tells the others of itself.
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

/// How a stream is supplied. See the module [`super`] for why this order loses nothing.
pub(super) enum Phase {
    /// By a task of its own, out of the log; rows wait until it has come as far as the tail.
    CatchingUp {
        /// What it saw has been sent.
        from: Cursor,
        /// Rows that came meanwhile, oldest first.
        held: Vec<Arc<Row>>,
        /// The bytes of these.
        held_bytes: usize,
        /// The pass that was under way, or the last one, when it was attached; `None` before that.
        attached: Option<u64>,
        /// The client gave a cursor, and is told when it has caught up.
        tell: bool,
        /// The place in `convos` of the first that lacked something when that was looked at.
        looked: usize,
    },
    /// By the tail, which still has a few entries to send that others have had. It gives out the old cursor until then.
    Joining {
        from: Cursor,
        /// The pass that was under way, or the last one, when this began.
        since: u64,
        tell: bool,
    },
    /// By the tail.
    Live,
}

impl Subscriber {
    pub(super) fn new(id: u64, did: Did, key: Option<PublicKey>, only: Option<ConvoId>, from: Cursor) -> Self {
        let phase = Phase::CatchingUp { from, held: Vec::new(), held_bytes: 0, attached: None, tell: false, looked: 0 };
        // Those that were opened together do not end together, and are not looked at together.
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
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the stream is for events of this conversation, or of none.
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

    /// Waits until the client has read most of what waits, of which there may be `most`; false if the stream has ended.
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

    /// The cursor that it comes from, if it does not have everything since.
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

    /// Ends the stream. What waits is dropped, unless the end is in good order.
    pub(super) fn end(&self, end: End) {
        self.state().end(end);
        self.moved.notify_one();
    }
}

impl State {
    /// Hands an event over, within the bounds; false if the client is too slow for them.
    pub fn push(&mut self, event: &Arc<Published>, most: usize) -> bool {
        let full = self.waiting.len() >= most || self.bytes + event.size > MAX_WAITING_BYTES;
        if full && !self.waiting.is_empty() {
            return false;
        }
        self.push_anyway(event);
        true
    }

    /// Hands an event over that was read for this client because there was room.
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

    /// Keeps a position until its time has come. They move forward only, so one gives way to the next.
    pub fn hold_position(&mut self, convo: &ConvoId, row: &Arc<Row>) {
        let kind =
            if matches!(row.what, EventPayload::Read { .. }) { PositionKind::Read } else { PositionKind::Cursor };
        self.positions.insert((convo.clone(), kind), row.clone());
    }

    /// Those that were kept, now that their time has come.
    pub fn take_positions(&mut self) -> Vec<(ConvoId, Arc<Row>)> {
        std::mem::take(&mut self.positions).into_iter().map(|((convo, _), row)| (convo, row)).collect()
    }

    /// The caller is not in this conversation any more.
    pub fn forget_positions(&mut self, convo: &ConvoId) {
        self.positions.retain(|(name, _), _| name != convo);
    }

    /// How many bytes wait for the client.
    pub fn bytes(&self) -> usize {
        match self.phase {
            Phase::CatchingUp { held_bytes, .. } => self.bytes + held_bytes,
            _ => self.bytes,
        }
    }

    /// Keeps a row for a stream that catches up, within the bounds; false if there are too many.
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
