//! Who listens to what in this replica. The tail puts in what the database says, and the hub hands it to the streams it is for.
//!
//! It knows no framing, asks the database nothing and waits for nobody. One lock guards the map of who listens; whoever holds it
//! only moves pointers. The rules that make it lose nothing and show nothing are in the module [`super`].
//!
//! Streams come in by `streams`, the tail by `passes`; `listeners` is what both do to the map.

mod listeners;
mod passes;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::auth::key::PublicKey;
use crate::ids::Did;
use crate::store::events::{Moment, RosterEntry};
use crate::store::{Affected, Topic};
use crate::wire::MessageView;

use super::cursor::Cursor;
use super::event::{Event, Info, Typing};
use super::identities;
use super::metrics::EventMetrics;
use super::subscriber::{End, Phase, State, Subscriber};

pub use passes::Pass;
pub use streams::{Gap, NextStep};

/// Most streams of one caller in one replica: a dozen devices, and some that have not noticed yet that they were cut off. One more ends
/// the oldest.
pub const MAX_STREAMS_PER_CALLER: usize = 16;
/// Most streams of one replica.
pub const MAX_STREAMS: usize = 20_000;
/// Most bytes of events that wait for all streams of a replica, those that several wait for counted once. Beyond it, who keeps most
/// waiting is cut off first.
pub const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;
/// After so long without a pass of the tail, streams should be opened elsewhere.
const STALE: Duration = Duration::from_secs(10);
/// Most typing indicators that wait for the tail; more are dropped.
const MAX_TYPING: usize = 1_000;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Most events that wait for one client.
    buffer: usize,
    next_id: AtomicU64,
    metrics: EventMetrics,
    /// The bytes of all events that wait for somebody, each once.
    held: Arc<AtomicUsize>,
    /// When the last pass was completed.
    passed_at: Mutex<Instant>,
    /// The last pass of the tail that was completed.
    passed: watch::Sender<u64>,
    /// There may be something to read.
    wake: Notify,
}

struct Inner {
    channels: HashMap<Arc<str>, Channel>,
    people: HashMap<Arc<str>, Vec<Arc<Subscriber>>>,
    /// Streams that are not attached to their conversations yet, so that every row may be for them.
    unattached: HashMap<u64, Arc<Subscriber>>,
    /// Streams to look at when a pass ends: they join, or have ended.
    unsettled: Vec<Arc<Subscriber>>,
    /// The channels and people, as hints name them.
    topics: HashMap<Topic, usize>,
    /// Channels that the tail has to read.
    unread: HashSet<Arc<str>>,
    typing: Vec<Typing>,
    /// Everything visible at the end of the last pass has been handed to everybody who is live, and nothing that was written later
    /// than what it says was read.
    watermark: Option<Mark>,
    /// The pass that is under way, or the last one.
    begun: u64,
    open: usize,
    closed: bool,
    /// As in [`Shared`].
    held: Arc<AtomicUsize>,
}

/// The moment of the last pass, with the newest transaction of which something has been handed out since, and the cursor that says so.
struct Mark {
    moment: Moment,
    cursor: Cursor,
}

/// A conversation that somebody listens to.
struct Channel {
    /// The newest entry that was handed out.
    head: i64,
    listeners: HashMap<u64, Listener>,
}

struct Listener {
    subscriber: Arc<Subscriber>,
    /// The last entry that needs not be sent. No less than the head for all but those who catch up or join.
    position: i64,
    /// Which membership it listens by.
    since: i64,
    /// What was read about that, once it was.
    checked: Option<Checked>,
}

/// An active membership.
#[derive(Clone, Copy)]
struct Checked {
    /// The version of the roster that says so, which moves when it ends.
    roster: i64,
    joined_seq: i64,
}

impl Checked {
    /// What is to be remembered of a membership: nothing of one that has ended.
    fn of(membership: &RosterEntry) -> Option<Self> {
        let (roster, joined_seq) = (membership.roster, membership.joined_seq);
        membership.left_seq.is_none().then_some(Self { roster, joined_seq })
    }
}

impl Hub {
    pub fn new(buffer: usize, metrics: EventMetrics) -> Self {
        let held: Arc<AtomicUsize> = Arc::default();
        let inner = Inner {
            channels: HashMap::new(),
            people: HashMap::new(),
            unattached: HashMap::new(),
            unsettled: Vec::new(),
            topics: HashMap::new(),
            unread: HashSet::new(),
            typing: Vec::new(),
            watermark: None,
            begun: 0,
            open: 0,
            closed: false,
            held: held.clone(),
        };
        let (passed, _) = watch::channel(0);
        let shared = Shared {
            inner: Mutex::new(inner),
            buffer,
            next_id: AtomicU64::new(0),
            metrics,
            held,
            passed_at: Mutex::new(Instant::now()),
            passed,
            wake: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the tail look, if any of these are listened to here.
    pub fn wake(&self, affected: &Affected) {
        let listened = match affected {
            Affected::All => true,
            Affected::Topics(topics) => {
                let inner = self.inner();
                topics.iter().any(|topic| inner.topics.contains_key(topic))
            }
        };
        if listened {
            self.0.wake.notify_one();
        }
    }

    /// Sends a keepalive to every stream whose turn it is, or ends it if its time is over. `turn` is one of `turns`.
    pub fn keep_alive(&self, turn: u64, turns: u64, now: Instant) {
        let mut inner = self.inner();
        let mut over = Vec::new();
        for subscriber in inner.people.values().flatten().filter(|subscriber| subscriber.id % turns == turn) {
            match &inner.watermark {
                _ if subscriber.until <= now => over.push(subscriber.clone()),
                Some(watermark) => subscriber.state().keep_alive(watermark.cursor.clone()),
                None => {}
            }
        }
        inner.cut(&over, Info::Expired);
    }

    /// Cuts streams off, those for which most waits first, until no more waits for all than may.
    pub fn shed_load(&self) {
        let is_full = || self.0.held.load(Ordering::Relaxed) > MAX_HELD_BYTES;
        if !is_full() {
            return;
        }
        let mut inner = self.inner();
        let all = inner.people.values().flatten();
        let mut all: Vec<_> = all.map(|subscriber| (subscriber.state().bytes(), subscriber.clone())).collect();
        all.sort_unstable_by_key(|(bytes, _)| *bytes);
        while is_full()
            && let Some((_, most)) = all.pop()
        {
            inner.cut(&[most], Info::SlowConsumer);
        }
    }

    /// Whether the tail has read to the present not long ago.
    pub fn is_current(&self, now: Instant) -> bool {
        let passed_at = *self.0.passed_at.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(passed_at) < STALE
    }

    /// Most events that wait for one client.
    pub fn buffer(&self) -> usize {
        self.0.buffer
    }

    /// Ends every stream, and tells it why. With `for_good`, no other is taken in.
    pub fn end_all(&self, info: Info, for_good: bool) {
        self.inner().closed |= for_good;
        self.end(info, |_| true);
    }

    /// Ends some streams, and tells them why.
    pub fn end(&self, info: Info, which: impl Fn(&Subscriber) -> bool) {
        let mut inner = self.inner();
        let those: Vec<_> = inner.people.values().flatten().filter(|subscriber| which(subscriber)).cloned().collect();
        inner.cut(&those, info);
    }

    /// Whose time has come to be looked at, each with the key that has proved it. The next time is counted from now.
    pub fn to_identify(&self, now: Instant) -> Vec<(Did, PublicKey)> {
        let mut due: Vec<(Did, PublicKey)> = Vec::new();
        for own in self.inner().people.values() {
            let begin = due.len();
            for subscriber in own {
                let Some(key) = &subscriber.key else { continue };
                let mut state = subscriber.state();
                if state.identify_at > now || state.has_ended() {
                    continue;
                }
                state.identify_at = now + identities::CHECK_INTERVAL;
                if due[begin..].iter().all(|(_, known)| known != key) {
                    due.push((subscriber.did.clone(), key.clone()));
                }
            }
        }
        due
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.inner().open
    }
}

impl Listener {
    /// Whether an entry lies within the membership that this stream listens by. The membership was read after the entry, so if it
    /// has ended since, it says where.
    fn may_see(&self, membership: &RosterEntry, seq: i64) -> bool {
        membership.since == self.since
            && seq > membership.joined_seq
            && membership.left_seq.is_none_or(|left| seq <= left)
    }

    /// Whether it was found to be a member by this version of the roster.
    fn is_checked(&self, roster: i64) -> bool {
        self.checked.is_some_and(|checked| checked.roster == roster)
    }
}

impl State {
    /// Whether the tail supplies it.
    fn is_tailed(&self) -> bool {
        !self.has_ended() && matches!(self.phase, Phase::Joining { .. } | Phase::Live)
    }
}

impl Inner {
    /// The cursor to hand something out with that this transaction wrote, or an older one. Whoever comes back with it after the database
    /// has lost the transaction is told.
    fn cursor(&mut self, tx: i64) -> Option<Cursor> {
        let mark = self.watermark.as_mut()?;
        if tx > mark.moment.seen().newest {
            mark.moment.has_read(tx);
            mark.cursor = Cursor::from(&mark.moment);
        }
        Some(mark.cursor.clone())
    }

    /// Ends the oldest stream of somebody who has more than it may. Who has got hold of somebody's token or key cannot lock the owner
    /// out by holding all places.
    fn replace_oldest(&mut self, did: &Did) {
        let own = self.people.get(did.as_str()).into_iter().flatten();
        let attached = own.filter(|one| !one.has_ended() && !self.unattached.contains_key(&one.id));
        let attached: Vec<_> = attached.cloned().collect();
        if attached.len() > MAX_STREAMS_PER_CALLER
            && let Some(oldest) = attached.iter().min_by_key(|one| one.id)
        {
            self.cut(std::slice::from_ref(oldest), Info::Replaced);
        }
    }

    /// Ends streams, and tells them why.
    fn cut(&mut self, streams: &[Arc<Subscriber>], info: Info) {
        for subscriber in streams {
            subscriber.end(End::Announced(info));
            self.detach(subscriber);
        }
    }
}

fn message(entry: MessageView) -> Event {
    Event::Message { prev_seq: entry.seq - 1, message: entry }
}
