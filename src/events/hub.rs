//! Who listens to what in this replica. The tail puts in what the database says, and the hub hands it to the streams it is for.
//!
//! It knows no framing, asks the database nothing and waits for nobody. One lock guards the map of who listens; whoever holds it
//! only moves pointers. The rules that make it lose nothing and show nothing are in the module [`super`].

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::metrics::Metrics;
use crate::store::events::{Attachment, EventRow, Membership, Moment, What};
use crate::store::{Concerned, Topic};
use crate::views::MessageView;

use super::cursor::Cursor;
use super::event::{Action, Event, Info, Published, Typing};
use super::subscriber::{End, Phase, State, Subscriber};

/// Most streams of one caller in one replica: a dozen devices, and some that have not noticed yet that they were cut off.
pub const MAX_STREAMS_PER_CALLER: usize = 16;
/// Most streams of one replica.
pub const MAX_STREAMS: usize = 20_000;
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
    metrics: Metrics,
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
    /// Everything visible at the end of the last pass has been handed to everybody who is live.
    watermark: Option<Cursor>,
    /// The pass that is under way, or the last one.
    begun: u64,
    open: usize,
    closed: bool,
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
}

/// What a pass of the tail has to do.
pub struct Begun {
    pub pass: u64,
    /// Whether anybody listens at all.
    pub listened: bool,
    pub typing: Vec<Typing>,
}

/// What a stream that catches up has to do next.
pub enum Behind {
    /// These rows came first.
    Rows(Vec<Arc<EventRow>>),
    /// Entries are missing here.
    Entries(Vec<Gap>),
    /// Nothing until this pass is over.
    Pass(u64),
    /// Nothing: the tail has taken over, or the stream has ended.
    Over,
}

/// A conversation in which a stream lacks entries: those after `position`, up to the one at `head` at least.
#[derive(Debug, Clone)]
pub struct Gap {
    pub convo: Arc<str>,
    pub position: i64,
    pub head: i64,
}

impl Hub {
    pub fn new(buffer: usize, metrics: Metrics) -> Self {
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
        };
        let (passed, _) = watch::channel(0);
        let shared = Shared {
            inner: Mutex::new(inner),
            buffer,
            next_id: AtomicU64::new(0),
            metrics,
            passed,
            wake: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held.
        self.0.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // For streams.

    /// Takes a new stream in. From the next pass on, it is told every row that may be for it.
    pub fn register(&self, did: &Did, only: Option<&ConvoId>, from: Cursor) -> Result<Arc<Subscriber>, Error> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(Code::Overloaded.because("this replica is going away; connect again to reach another"));
        }
        if inner.open >= MAX_STREAMS {
            return Err(Code::Overloaded.because(format!("this replica has {MAX_STREAMS} streams open, its most")));
        }
        let own = inner.people.get(did.as_str()).map_or(0, Vec::len);
        if own >= MAX_STREAMS_PER_CALLER {
            // Some may be of clients that are gone, which shows when something is sent to them.
            for subscriber in inner.people.get(did.as_str()).into_iter().flatten() {
                subscriber.state().poke();
            }
            let message = format!("you have {own} streams open here; close one first");
            return Err(Code::RateLimitExceeded.because(message));
        }
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let subscriber = Arc::new(Subscriber::new(id, did.clone(), only.cloned(), from));
        if own == 0 {
            inner.listen(did.into());
        }
        inner.people.entry(did.as_str().into()).or_default().push(subscriber.clone());
        inner.unattached.insert(id, subscriber.clone());
        inner.open += 1;
        self.0.metrics.streams_open(inner.open);
        Ok(subscriber)
    }

    /// Lets a stream go. Nothing is handed to it any more.
    pub fn remove(&self, subscriber: &Subscriber) {
        let mut inner = self.inner();
        inner.remove(subscriber);
        self.0.metrics.streams_open(inner.open);
    }

    /// The pass that is under way, or the last one.
    pub fn begun(&self) -> u64 {
        self.inner().begun
    }

    /// Waits until a pass that begins after `pass` is over, and makes it begin soon.
    pub async fn after(&self, pass: u64) {
        let mut passed = self.0.passed.subscribe();
        self.0.wake.notify_one();
        // The sender is in `self`.
        let _ = passed.wait_for(|passed| *passed > pass).await;
    }

    /// Attaches a stream, which begins at a cursor, to its conversations, as the database knew them at some time after it was
    /// registered. With `replayed`, the rows since the client's cursor, the client is told when it has caught up.
    pub fn attach(
        &self,
        subscriber: &Arc<Subscriber>,
        attachments: &[Attachment],
        begin: Cursor,
        replayed: Option<Vec<EventRow>>,
    ) {
        let mut inner = self.inner();
        if inner.unattached.remove(&subscriber.id).is_none() {
            return;
        }
        let begun = inner.begun;
        let mut state = subscriber.state();
        if let Phase::CatchingUp { from, attached, tell, held } = &mut state.phase {
            (*from, *attached, *tell) = (begin, Some(begun), replayed.is_some());
            held.extend(replayed.into_iter().flatten().map(Arc::new));
        }
        for attachment in attachments {
            let listener =
                Listener { subscriber: subscriber.clone(), position: attachment.position, since: attachment.since };
            let name = inner.attach(attachment.convo.as_str(), attachment.last_seq, listener);
            state.convos.push(name);
        }
    }

    /// What a stream that catches up lacks. Where that is no more than `close` entries of any conversation, the tail takes over.
    pub fn behind(&self, subscriber: &Arc<Subscriber>, most_convos: usize, close: i64) -> Behind {
        let mut inner = self.inner();
        let begun = inner.begun;
        let passed = *self.0.passed.borrow();
        let mut state = subscriber.state();
        if state.has_ended() {
            return Behind::Over;
        }
        let Phase::CatchingUp { from, held, attached: Some(attached), tell } = &mut state.phase else {
            return Behind::Over;
        };
        // Rows that were committed before it was attached have been reported by then.
        if passed <= *attached {
            return Behind::Pass(*attached);
        }
        if !held.is_empty() {
            return Behind::Rows(std::mem::take(held));
        }
        let (from, tell) = (*from, *tell);
        let mut far = Vec::new();
        let mut near = Vec::new();
        for name in &state.convos {
            let Some(channel) = inner.channels.get(name) else { continue };
            let Some(listener) = channel.listeners.get(&subscriber.id) else { continue };
            match channel.head - listener.position {
                ..=0 => {}
                lag if lag <= close => near.push(name.clone()),
                _ => far.push(Gap { convo: name.clone(), position: listener.position, head: channel.head }),
            }
            if far.len() == most_convos {
                break;
            }
        }
        if !far.is_empty() {
            return Behind::Entries(far);
        }
        state.phase = Phase::Joining { from, since: begun, tell };
        drop(state);
        inner.unread.extend(near);
        inner.unsettled.push(subscriber.clone());
        drop(inner);
        self.0.wake.notify_one();
        Behind::Over
    }

    /// Hands entries to a stream that catches up, if its membership allows. `upto` is how far was read in each conversation.
    pub fn supply(
        &self,
        subscriber: &Arc<Subscriber>,
        entries: Vec<MessageView>,
        memberships: &[Membership],
        upto: &[(&str, i64)],
    ) {
        let mut inner = self.inner();
        let mut state = subscriber.state();
        let Phase::CatchingUp { from, .. } = state.phase else { return };
        for entry in entries {
            let Some(channel) = inner.channels.get_mut(entry.convo_id.as_str()) else { continue };
            let Some(listener) = channel.listeners.get_mut(&subscriber.id) else { continue };
            let membership = memberships.iter().find(|one| one.convo == entry.convo_id);
            if membership.is_some_and(|one| one.since != listener.since) {
                // Which of these were of the membership that it listens by, nobody can say any more. It comes back and is told.
                state.end(End::Told(Info::Reset));
                return;
            }
            if entry.seq > listener.position && membership.is_some_and(|one| listener.may_see(one, entry.seq)) {
                listener.position = entry.seq;
                state.push_anyway(&published(entry, from));
            }
        }
        // What it may not see, or what is not there any more, is not missing.
        for (name, seq) in upto {
            let listener = inner.channels.get_mut(*name).and_then(|channel| channel.listeners.get_mut(&subscriber.id));
            if let Some(listener) = listener {
                listener.position = listener.position.max(*seq);
            }
        }
    }

    /// Hands entries of a membership that has ended to a stream that catches up, before it is told of the end.
    pub fn supply_rest(&self, subscriber: &Subscriber, entries: Vec<MessageView>) {
        let mut state = subscriber.state();
        let Phase::CatchingUp { from, .. } = state.phase else { return };
        for entry in entries {
            state.push_anyway(&published(entry, from));
        }
    }

    /// Hands rows to a stream that catches up. `memberships` are those of the conversations that it joined by them.
    pub fn supply_rows(&self, subscriber: &Arc<Subscriber>, rows: &[Arc<EventRow>], memberships: &[Membership]) {
        let mut inner = self.inner();
        for row in rows {
            inner.tell(subscriber, row, memberships, usize::MAX);
        }
    }

    /// Somebody types in a conversation. It is handed on with the next pass, after what changed the roster before.
    pub fn type_in(&self, typing: Typing) {
        let mut inner = self.inner();
        if inner.channels.contains_key(typing.convo_id.as_str()) && inner.typing.len() < MAX_TYPING {
            inner.typing.push(typing);
            drop(inner);
            self.0.wake.notify_one();
        }
    }

    // For hints.

    /// Makes the tail look, if any of these are listened to here.
    pub fn wake(&self, concerned: &Concerned) {
        let listened = match concerned {
            Concerned::Everybody => true,
            Concerned::Topics(topics) => {
                let inner = self.inner();
                topics.iter().any(|topic| inner.topics.contains_key(topic))
            }
        };
        if listened {
            self.0.wake.notify_one();
        }
    }

    // For the tail.

    /// Waits until somebody wants the tail to look.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    pub fn begin_pass(&self) -> Begun {
        let mut inner = self.inner();
        inner.begun += 1;
        Begun { pass: inner.begun, listened: inner.open > 0, typing: std::mem::take(&mut inner.typing) }
    }

    /// Notes that these have new entries.
    pub fn mark_unread(&self, convos: &[ConvoId]) {
        let mut inner = self.inner();
        for convo in convos {
            if let Some((name, _)) = inner.channels.get_key_value(convo.as_str()) {
                let name = name.clone();
                inner.unread.insert(name);
            }
        }
    }

    /// Takes some conversations to read, each with the position after which somebody lacks entries.
    pub fn take_unread(&self, most: usize) -> Vec<(Arc<str>, i64)> {
        let mut inner = self.inner();
        let names: Vec<Arc<str>> = inner.unread.iter().take(most).cloned().collect();
        let mut taken = Vec::with_capacity(names.len());
        for name in names {
            inner.unread.remove(&name);
            let Some(channel) = inner.channels.get(&name) else { continue };
            let lacking = channel.listeners.values().filter(|listener| listener.subscriber.state().is_tailed());
            taken.push((name, lacking.map(|listener| listener.position).min().unwrap_or(i64::MAX).min(channel.head)));
        }
        taken
    }

    /// Puts back what could not be read, or not to its end.
    pub fn put_back(&self, convos: Vec<(Arc<str>, i64)>) {
        let mut inner = self.inner();
        let still = convos.into_iter().filter(|(name, _)| inner.channels.contains_key(name)).collect::<Vec<_>>();
        inner.unread.extend(still.into_iter().map(|(name, _)| name));
    }

    /// Who has to be a member for these entries to be handed out.
    pub fn audience<'e>(&self, convos: impl Iterator<Item = &'e ConvoId>) -> Vec<(&'e ConvoId, Did)> {
        let inner = self.inner();
        let mut audience = Vec::new();
        for convo in convos {
            let Some(channel) = inner.channels.get(convo.as_str()) else { continue };
            let mut dids: Vec<&Did> = channel.listeners.values().map(|listener| &listener.subscriber.did).collect();
            dids.sort_unstable();
            dids.dedup();
            audience.extend(dids.into_iter().map(|did| (convo, did.clone())));
        }
        audience
    }

    /// Hands out entries, ascending in each conversation, to those whose membership allows. `after` says behind which position each
    /// conversation was read; the memberships were read after the entries.
    pub fn publish(&self, after: &[(&str, i64)], entries: Vec<MessageView>, memberships: &[Membership]) {
        let after: HashMap<&str, i64> = after.iter().copied().collect();
        let memberships: HashMap<(&str, &str), &Membership> =
            memberships.iter().map(|one| ((one.convo.as_str(), one.did.as_str()), one)).collect();
        let mut inner = self.inner();
        // One borrow, so that its parts can be told apart.
        let inner = &mut *inner;
        let Some(watermark) = inner.watermark else { return };
        for entry in entries {
            let (convo, seq) = (entry.convo_id.clone(), entry.seq);
            let Some(channel) = inner.channels.get_mut(convo.as_str()) else { continue };
            let read_after = after.get(convo.as_str()).copied().unwrap_or(seq);
            let event = published(entry, watermark);
            for listener in channel.listeners.values_mut() {
                let mut state = listener.subscriber.state();
                if !state.is_tailed() || listener.position >= seq {
                    continue;
                }
                // It has joined since the reading began and lacks entries from before this one. The conversation is unread again
                // because of that, and it gets them all by the next reading.
                if listener.position < read_after {
                    continue;
                }
                // Without a word about its membership, it came after the question, and is served by the next pass.
                let Some(membership) = memberships.get(&(convo.as_str(), listener.subscriber.did.as_str())) else {
                    continue;
                };
                if membership.since != listener.since {
                    // Whether this was of the membership that it listens by, nobody can say any more. It comes back and is told,
                    // before any cursor says that it has had this.
                    state.end(End::Told(Info::Reset));
                    inner.unsettled.push(listener.subscriber.clone());
                    continue;
                }
                if listener.may_see(membership, seq) && !state.push(&event, self.0.buffer) {
                    state.end(End::Told(Info::SlowConsumer));
                    inner.unsettled.push(listener.subscriber.clone());
                }
                listener.position = seq;
            }
            channel.head = channel.head.max(seq);
        }
    }

    /// The people among these who listen here.
    pub fn listening<'r>(&self, dids: impl Iterator<Item = &'r Did>) -> Vec<&'r Did> {
        let inner = self.inner();
        dids.filter(|did| inner.people.contains_key(did.as_str())).collect()
    }

    /// Hands out rows. `memberships` are those of the people who joined by them and listen here, read after the rows.
    pub fn publish_rows(&self, rows: Vec<EventRow>, memberships: &[Membership]) {
        let mut inner = self.inner();
        for row in rows {
            let row = Arc::new(row);
            for subscriber in inner.audience_of(&row) {
                let mut state = subscriber.state();
                match &mut state.phase {
                    Phase::CatchingUp { held, .. } if held.len() < self.0.buffer => held.push(row.clone()),
                    Phase::CatchingUp { .. } => state.end(End::Told(Info::SlowConsumer)),
                    Phase::Joining { .. } | Phase::Live => {
                        drop(state);
                        inner.tell(&subscriber, &row, memberships, self.0.buffer);
                    }
                }
            }
        }
    }

    /// Hands out typing indicators.
    pub fn publish_typing(&self, typing: Vec<Typing>) {
        let inner = self.inner();
        let Some(watermark) = inner.watermark else { return };
        for typing in typing {
            let Some(channel) = inner.channels.get(typing.convo_id.as_str()) else { continue };
            let did = typing.did.clone();
            let event = Arc::new(Published::new(Event::Typing(typing), watermark));
            for listener in channel.listeners.values().filter(|listener| listener.subscriber.did != did) {
                let mut state = listener.subscriber.state();
                // Nobody is cut off for what is of no consequence.
                if state.is_tailed() {
                    state.push(&event, self.0.buffer);
                }
            }
        }
    }

    /// Ends a pass: everything visible at its moment has been handed out.
    pub fn end_pass(&self, pass: u64, moment: &Moment) {
        let watermark = Cursor::from(moment);
        {
            let mut inner = self.inner();
            inner.watermark = Some(watermark);
            for subscriber in std::mem::take(&mut inner.unsettled) {
                let mut state = subscriber.state();
                if state.has_ended() {
                    drop(state);
                    inner.detach(&subscriber);
                    continue;
                }
                match state.phase {
                    Phase::Joining { since, tell, .. } if since < pass => {
                        state.phase = Phase::Live;
                        if tell {
                            let event = Event::Info { info: Info::Replayed, retry_after_ms: None };
                            state.push_anyway(&Arc::new(Published::new(event, watermark)));
                        }
                    }
                    Phase::Joining { .. } => {
                        drop(state);
                        inner.unsettled.push(subscriber);
                        // It waits for one more pass.
                        self.0.wake.notify_one();
                    }
                    Phase::CatchingUp { .. } | Phase::Live => {}
                }
            }
        }
        self.0.passed.send_replace(pass);
    }

    /// Gives every stream whose turn it is a sign of life. `turn` is one of `turns`.
    pub fn beat(&self, turn: u64, turns: u64) {
        let inner = self.inner();
        let Some(watermark) = inner.watermark else { return };
        for subscriber in inner.people.values().flatten().filter(|subscriber| subscriber.id % turns == turn) {
            subscriber.state().beat(watermark);
        }
    }

    /// Most events that wait for one client.
    pub fn buffer(&self) -> usize {
        self.0.buffer
    }

    /// Ends every stream, and tells it why. With `for_good`, no other is taken in.
    pub fn end_all(&self, info: Info, for_good: bool) {
        let mut inner = self.inner();
        inner.closed |= for_good;
        let all: Vec<Arc<Subscriber>> = inner.people.values().flatten().cloned().collect();
        for subscriber in all {
            subscriber.end(End::Told(info));
            inner.detach(&subscriber);
        }
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        self.inner().open
    }
}

impl Listener {
    /// Whether an entry lies within the membership that this stream listens by. The membership was read after the entry, so if it
    /// has ended since, it says where.
    fn may_see(&self, membership: &Membership, seq: i64) -> bool {
        membership.since == self.since
            && seq > membership.joined_seq
            && membership.left_seq.is_none_or(|left| seq <= left)
    }
}

impl State {
    /// Whether the tail supplies it.
    fn is_tailed(&self) -> bool {
        !self.has_ended() && matches!(self.phase, Phase::Joining { .. } | Phase::Live)
    }
}

fn published(entry: MessageView, cursor: Cursor) -> Arc<Published> {
    Arc::new(Published::new(Event::Message { prev_seq: entry.seq - 1, message: entry }, cursor))
}

impl Inner {
    fn listen(&mut self, topic: Topic) {
        *self.topics.entry(topic).or_default() += 1;
    }

    fn unlisten(&mut self, topic: Topic) {
        if let Some(count) = self.topics.get_mut(&topic) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(&topic);
            }
        }
    }

    /// Adds a listener to a conversation, and says what the hub calls that. A conversation that nobody listened to is read from
    /// `head` on in the next pass.
    fn attach(&mut self, convo: &str, head: i64, listener: Listener) -> Arc<str> {
        let name = match self.channels.get_key_value(convo) {
            Some((name, _)) => name.clone(),
            None => {
                let name: Arc<str> = convo.into();
                self.listen(convo.into());
                self.channels.insert(name.clone(), Channel { head, listeners: HashMap::new() });
                self.unread.insert(name.clone());
                name
            }
        };
        if let Some(channel) = self.channels.get_mut(&name) {
            channel.listeners.insert(listener.subscriber.id, listener);
        }
        name
    }

    /// Ends a stream's attachment to one conversation.
    fn leave(&mut self, subscriber: &Subscriber, convo: &str) {
        let Some(channel) = self.channels.get_mut(convo) else { return };
        channel.listeners.remove(&subscriber.id);
        if channel.listeners.is_empty() {
            self.channels.remove(convo);
            self.unread.remove(convo);
            self.unlisten(convo.into());
        }
    }

    /// Ends all attachments of a stream. It counts as open until it is removed.
    fn detach(&mut self, subscriber: &Subscriber) {
        self.unattached.remove(&subscriber.id);
        let convos = std::mem::take(&mut subscriber.state().convos);
        for convo in convos {
            self.leave(subscriber, &convo);
        }
    }

    fn remove(&mut self, subscriber: &Subscriber) {
        subscriber.end(End::Over);
        self.detach(subscriber);
        let did = subscriber.did.as_str();
        let Some(own) = self.people.get_mut(did) else { return };
        let before = own.len();
        own.retain(|one| one.id != subscriber.id);
        self.open -= before - own.len();
        if own.is_empty() {
            self.people.remove(did);
            self.unlisten(did.into());
        }
    }

    /// The streams that a row may be for.
    fn audience_of(&self, row: &EventRow) -> Vec<Arc<Subscriber>> {
        let of = |did: &Did| self.people.get(did.as_str()).map_or(&[][..], Vec::as_slice);
        if let Some(recipient) = &row.recipient {
            return of(recipient).to_vec();
        }
        let mut audience: HashMap<u64, &Arc<Subscriber>> = HashMap::new();
        if let Some(channel) = row.convo.as_ref().and_then(|convo| self.channels.get(convo.as_str())) {
            audience.extend(channel.listeners.iter().map(|(id, listener)| (*id, &listener.subscriber)));
        }
        if let What::Joined { dids, .. } = &row.what {
            audience.extend(dids.iter().flat_map(of).map(|subscriber| (subscriber.id, subscriber)));
        }
        audience.extend(self.unattached.iter().map(|(id, subscriber)| (*id, subscriber)));
        audience.into_values().cloned().collect()
    }

    /// Tells one stream what a row means for it.
    fn tell(&mut self, to: &Arc<Subscriber>, row: &EventRow, memberships: &[Membership], buffer: usize) {
        if !to.wants(row.convo.as_ref()) {
            return;
        }
        let Some(watermark) = self.watermark else { return };
        let say = |event: Event| {
            let mut state = to.state();
            if !state.push(&Arc::new(Published::new(event, watermark)), buffer) {
                state.end(End::Told(Info::SlowConsumer));
            }
        };
        let action = |did: &Did, actor: &Did| if did == actor { Action::Left } else { Action::Removed };
        match (&row.convo, &row.what) {
            (Some(convo), What::Joined { dids, actor, epoch, seq, welcome }) if dids.contains(&to.did) => {
                let (convo_id, epoch) = (convo.clone(), *epoch);
                say(Event::Conversation { convo_id, actor: actor.clone(), epoch, seq: *seq });
                if *welcome && *actor != to.did {
                    say(Event::Welcome { convo_id: convo.clone(), epoch });
                }
                // It may have ended since; then its entries still come, and after them its end. Where it gave way to another, only
                // the rows know where it ended.
                match memberships.iter().find(|one| one.convo == *convo && one.did == to.did) {
                    Some(another) if another.joined_seq > *seq && to.state().is_tailed() => {
                        to.end(End::Told(Info::Reset));
                    }
                    Some(membership) => self.join(to, membership, *seq, watermark),
                    None => {}
                }
            }
            (Some(convo), What::Joined { dids, actor, epoch, seq, .. }) if self.is_attached(to, convo) => {
                for did in dids {
                    let (convo_id, did, actor) = (convo.clone(), did.clone(), actor.clone());
                    say(Event::MembershipChange {
                        convo_id,
                        did,
                        action: Action::Joined,
                        actor,
                        epoch: *epoch,
                        seq: *seq,
                    });
                }
            }
            (Some(convo), What::Left { did, actor, epoch, seq }) if *did != to.did && self.is_attached(to, convo) => {
                let (convo_id, action) = (convo.clone(), action(did, actor));
                let (did, actor) = (did.clone(), actor.clone());
                say(Event::MembershipChange { convo_id, did, action, actor, epoch: *epoch, seq: *seq });
            }
            (Some(convo), What::Removed { .. }) if self.lacks(to, convo, row) => {
                // It comes back and is sent the rest first.
                to.end(End::Told(Info::Reset));
            }
            (Some(convo), What::Removed { did, actor, epoch, seq }) => {
                let (convo_id, action) = (convo.clone(), action(did, actor));
                say(Event::Removed { convo_id, action, actor: actor.clone(), epoch: *epoch, seq: *seq });
                to.state().convos.retain(|name| **name != *convo.as_str());
                self.leave(to, convo.as_str());
                if to.only.is_some() {
                    to.end(End::Over);
                }
            }
            (Some(convo), What::Read { seq, message_id, read_at }) => say(Event::Read {
                convo_id: convo.clone(),
                did: to.did.clone(),
                seq: *seq,
                message_id: message_id.clone(),
                read_at: *read_at,
            }),
            (Some(convo), What::Cursor { last_seen }) => {
                say(Event::CursorMoved { convo_id: convo.clone(), last_seen: last_seen.clone() });
            }
            (_, What::KeyPackagesLow { available }) => say(Event::KeyPackagesLow { available: *available }),
            _ => {}
        }
    }

    /// Whether a stream that the tail supplies lacks entries from before this end of its membership.
    fn lacks(&self, to: &Subscriber, convo: &ConvoId, row: &EventRow) -> bool {
        let listener = self.channels.get(convo.as_str()).and_then(|channel| channel.listeners.get(&to.id));
        match (listener, &row.what) {
            (Some(listener), What::Removed { seq, .. }) => listener.position < *seq && to.state().is_tailed(),
            _ => false,
        }
    }

    fn is_attached(&self, subscriber: &Subscriber, convo: &ConvoId) -> bool {
        self.channels.get(convo.as_str()).is_some_and(|channel| channel.listeners.contains_key(&subscriber.id))
    }

    /// Attaches a stream to a conversation that its caller has joined at `position`. The tail supplies it from there on; what others
    /// have had already comes with the next pass.
    fn join(&mut self, subscriber: &Arc<Subscriber>, membership: &Membership, position: i64, watermark: Cursor) {
        let convo = membership.convo.as_str();
        let known = self.channels.get(convo).and_then(|channel| channel.listeners.get(&subscriber.id));
        if known.is_some_and(|listener| listener.since == membership.since) {
            return;
        }
        let listener = Listener { subscriber: subscriber.clone(), position, since: membership.since };
        let name = self.attach(convo, position, listener);
        self.unread.insert(name.clone());
        let begun = self.begun;
        let mut state = subscriber.state();
        if !state.convos.contains(&name) {
            state.convos.push(name);
        }
        match &mut state.phase {
            // Not until this pass is over, which has read what it reads already.
            Phase::Joining { since, .. } => *since = begun,
            Phase::Live => {
                state.phase = Phase::Joining { from: watermark, since: begun, tell: false };
                drop(state);
                self.unsettled.push(subscriber.clone());
            }
            Phase::CatchingUp { attached, .. } => *attached = Some(begun),
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
