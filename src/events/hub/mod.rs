//! The map of who follows what in this replica. The tail puts in what it has read, and the hub queues it for the
//! streams.
//!
//! The hub knows no framing, asks the database nothing and waits for nothing. One lock guards the map; its holder only
//! moves pointers. The tail drives a pass: `begin_pass`, `take_unread`, `audience`, `publish`, `publish_rows`,
//! `publish_typing`, `end_pass`. docs/events.md proves that this loses and leaks nothing.
//!
//! `streams` is the side of the streams, `passes` that of the tail, and `listeners` is what both do to the map.

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

/// Most streams of one caller in one replica: a dozen devices, and some whose clients have not noticed a lost
/// connection yet. A further one ends the oldest.
pub const MAX_STREAMS_PER_CALLER: usize = 16;
/// Most streams of one replica. With fewer connections it is ten elevenths of them, so that requests always find one.
pub const MAX_STREAMS: usize = 20_000;
/// Most bytes of events that wait in all streams of a replica; an event that waits in several counts once. Beyond it,
/// the streams with the most waiting bytes are cut first.
pub const MAX_HELD_BYTES: usize = 256 * 1024 * 1024;
/// Time without a completed pass after which streams should be opened elsewhere.
const STALE: Duration = Duration::from_secs(10);
/// Most typing indicators that wait for the tail. Further ones are dropped.
const MAX_TYPING: usize = 1_000;

/// The hub of a replica. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    inner: Mutex<Inner>,
    /// Most events that wait for one client.
    buffer: usize,
    /// Most streams.
    max_streams: usize,
    next_id: AtomicU64,
    metrics: EventMetrics,
    /// Bytes of all events that wait in streams, each counted once.
    held: Arc<AtomicUsize>,
    /// Time at which the last pass was completed.
    passed_at: Mutex<Instant>,
    /// Number of the last completed pass.
    passed: watch::Sender<u64>,
    /// Notified when there may be something to read.
    wake: Notify,
}

struct Inner {
    channels: HashMap<Arc<str>, Channel>,
    people: HashMap<Arc<str>, Vec<Arc<Subscriber>>>,
    /// Streams that are not attached to their conversations yet. Every row may concern them.
    unattached: HashMap<u64, Arc<Subscriber>>,
    /// Streams that the end of a pass handles: those that join, or have ended.
    unsettled: Vec<Arc<Subscriber>>,
    /// Channels and people as notifications name them, with their counts.
    topics: HashMap<Topic, usize>,
    /// Channels that the tail has to read.
    unread: HashSet<Arc<str>>,
    typing: Vec<Typing>,
    /// Everything that was visible to the last pass has been queued for every live stream. It names the newest
    /// transaction that was read.
    watermark: Option<Mark>,
    /// Number of the running pass, or of the last one.
    begun: u64,
    open: usize,
    closed: bool,
    /// As in [`Shared`].
    held: Arc<AtomicUsize>,
}

/// Moment of the last pass, with the newest transaction of which anything was handed out since, and its cursor.
struct Mark {
    moment: Moment,
    cursor: Cursor,
}

/// A conversation that a stream follows.
struct Channel {
    /// Newest entry that was handed out.
    head: i64,
    listeners: HashMap<u64, Listener>,
}

struct Listener {
    subscriber: Arc<Subscriber>,
    /// Last entry that the client already has. At least the head, except for streams that catch up or join.
    position: i64,
    /// Membership by which it listens.
    since: i64,
    /// That membership as it was read last.
    checked: Option<Checked>,
}

/// An active membership.
#[derive(Clone, Copy)]
struct Checked {
    /// Version of the roster that was read. It moves when a membership ends.
    roster: i64,
    joined_seq: i64,
}

impl Checked {
    /// Returns what is remembered of a membership: nothing if it has ended.
    fn of(membership: &RosterEntry) -> Option<Self> {
        let (roster, joined_seq) = (membership.roster, membership.joined_seq);
        membership.left_seq.is_none().then_some(Self { roster, joined_seq })
    }
}

impl Hub {
    /// Creates the hub of a replica that accepts this many connections.
    pub fn new(buffer: usize, connections: usize, metrics: EventMetrics) -> Self {
        let max_streams = (connections - connections.div_ceil(11)).clamp(1, MAX_STREAMS);
        metrics.max_streams(max_streams);
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
            max_streams,
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
        // No code panics while the lock is held.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the tail begin a pass, if any of these topics is followed here.
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

    /// Cuts streams until the bytes that wait for all are within [`MAX_HELD_BYTES`], those with the most waiting bytes
    /// first.
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

    /// Returns the time since the tail has completed a pass.
    pub fn tail_age(&self, now: Instant) -> Duration {
        let passed_at = *self.0.passed_at.lock().unwrap_or_else(PoisonError::into_inner);
        now.saturating_duration_since(passed_at)
    }

    /// Returns whether the tail has completed a pass lately.
    pub fn is_current(&self, now: Instant) -> bool {
        self.tail_age(now) < STALE
    }

    /// Records the bytes that wait in all streams, and the age of the last pass, in the metrics.
    pub fn measure(&self, now: Instant) {
        self.0.metrics.state(self.0.held.load(Ordering::Relaxed), self.tail_age(now));
    }

    /// Most events that wait for one client.
    pub fn buffer(&self) -> usize {
        self.0.buffer
    }

    /// Ends every stream with a final event. With `for_good`, new ones are refused.
    pub fn end_all(&self, info: Info, for_good: bool) {
        self.inner().closed |= for_good;
        self.end(info, |_| true);
    }

    /// Ends some streams with a final event.
    pub fn end(&self, info: Info, which: impl Fn(&Subscriber) -> bool) {
        let mut inner = self.inner();
        let those: Vec<_> = inner.people.values().flatten().filter(|subscriber| which(subscriber)).cloned().collect();
        inner.cut(&those, info);
    }

    /// Returns the callers that are due for a check, each with its key. Their next check is counted from now.
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

    /// Number of open streams.
    pub fn open(&self) -> usize {
        self.inner().open
    }
}

impl Listener {
    /// Returns whether an entry lies within the membership by which this stream listens. The membership was read after
    /// the entry, so it says where it ended.
    fn may_see(&self, membership: &RosterEntry, seq: i64) -> bool {
        membership.since == self.since
            && seq > membership.joined_seq
            && membership.left_seq.is_none_or(|left| seq <= left)
    }

    /// Returns whether its membership was read at this version of the roster.
    fn is_checked(&self, roster: i64) -> bool {
        self.checked.is_some_and(|checked| checked.roster == roster)
    }
}

impl State {
    /// Returns whether the tail supplies the stream.
    fn is_tailed(&self) -> bool {
        !self.has_ended() && matches!(self.phase, Phase::Joining { .. } | Phase::Live)
    }
}

impl Inner {
    /// Returns the cursor for something that `tx` or an older transaction wrote. A client that comes back with it after
    /// the database has lost `tx` is refused.
    fn cursor(&mut self, tx: i64) -> Option<Cursor> {
        let mark = self.watermark.as_mut()?;
        if tx > mark.moment.seen().newest {
            mark.moment.has_read(tx);
            mark.cursor = Cursor::from(&mark.moment);
        }
        Some(mark.cursor.clone())
    }

    /// Ends the oldest stream of a caller that has too many. The thief of a token or key cannot lock the owner out by
    /// holding all places.
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

    /// Ends streams with a final event.
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
