//! The streams' side of the hub: registration, catching up, and removal.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::auth::key::PublicKey;
use crate::error::{Code, Error};
use crate::events::cursor::Cursor;
use crate::events::event::{Info, Published, Row, Typing};
use crate::events::subscriber::{End, Phase, Subscriber};
use crate::ids::{ConvoId, Did};
use crate::store::events::{Attachment, Entries, EventRow, RosterEntry};

use super::{Hub, Listener, MAX_STREAMS_PER_CALLER, MAX_TYPING, message};

/// Most conversations that are attached, or searched, without releasing the lock.
const MAX_ATTACHED_AT_ONCE: usize = 1_000;

/// Next step of a stream that catches up.
pub enum NextStep {
    /// Send these rows.
    Rows(Vec<Arc<Row>>),
    /// Read the missing entries of these conversations.
    Entries(Vec<Gap>),
    /// Wait until this pass is over.
    AwaitPass(u64),
    /// Nothing: the tail has taken over, or the stream has ended.
    Done,
}

/// A conversation in which a stream lacks the entries after `position`, up to `head` at least.
#[derive(Debug, Clone)]
pub struct Gap {
    pub convo: Arc<str>,
    pub position: i64,
    pub head: i64,
}

impl Hub {
    /// Registers a new stream. From the next pass on, every row that may concern it is held for it.
    ///
    /// Errors: `Overloaded` if the replica stops or has its maximum of streams, `RateLimitExceeded` if too many streams of the
    /// caller are being opened or closed.
    pub fn register(
        &self,
        did: &Did,
        key: Option<&PublicKey>,
        only: Option<&ConvoId>,
        from: Cursor,
    ) -> Result<Arc<Subscriber>, Error> {
        let mut inner = self.inner();
        if inner.closed {
            return Err(Code::Overloaded.because("this replica is shutting down; reconnect to reach another"));
        }
        let most = self.0.max_streams;
        if inner.open >= most {
            return Err(Code::Overloaded.because(format!("this replica has reached its limit of {most} streams")));
        }
        let own = inner.people.get(did.as_str()).map_or(0, Vec::len);
        // A stream replaces none until it is attached, and a replaced one counts until its client has read the final
        // event.
        if own >= 2 * MAX_STREAMS_PER_CALLER {
            return Err(
                Code::RateLimitExceeded.because("too many of your streams are being opened or closed on this replica")
            );
        }
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let subscriber = Arc::new(Subscriber::new(id, did.clone(), key.cloned(), only.cloned(), from));
        if own == 0 {
            inner.add_topic(did.into());
        }
        inner.people.entry(did.as_str().into()).or_default().push(subscriber.clone());
        inner.unattached.insert(id, subscriber.clone());
        inner.open += 1;
        self.0.metrics.streams_open(inner.open);
        Ok(subscriber)
    }

    /// Removes a stream. Nothing is queued for it any more.
    pub fn remove(&self, subscriber: &Subscriber) {
        let mut inner = self.inner();
        inner.remove(subscriber);
        self.0.metrics.streams_open(inner.open);
    }

    /// Number of the running pass, or of the last one.
    pub fn current_pass(&self) -> u64 {
        self.inner().begun
    }

    /// Waits until a pass that begins after `pass` is over, and makes it begin soon.
    pub async fn after(&self, pass: u64) {
        let mut passed = self.0.passed.subscribe();
        self.0.wake.notify_one();
        // The sender lives as long as `self`.
        let _ = passed.wait_for(|passed| *passed > pass).await;
    }

    /// Attaches a stream to its conversations, as the database had them after the stream was registered. `replayed` are
    /// the rows since the client's cursor, if it gave one; then the client is sent `replayed` when it has caught up.
    pub fn attach(
        &self,
        subscriber: &Arc<Subscriber>,
        attachments: &[Attachment],
        begin: Cursor,
        replayed: Option<Vec<EventRow>>,
    ) {
        // A few at a time, so that the lock is free in between. Every row is held for the stream until all are
        // attached.
        for some in attachments.chunks(MAX_ATTACHED_AT_ONCE) {
            let mut inner = self.inner();
            if !inner.unattached.contains_key(&subscriber.id) {
                return;
            }
            let mut state = subscriber.state();
            for attachment in some {
                let (position, since) = (attachment.position, attachment.since);
                let listener = Listener { subscriber: subscriber.clone(), position, since, checked: None };
                let name = inner.attach(attachment.convo.as_str(), attachment.last_seq, listener);
                state.convos.push(name);
            }
        }
        let mut inner = self.inner();
        if inner.unattached.remove(&subscriber.id).is_none() {
            return;
        }
        inner.replace_oldest(&subscriber.did);
        let begun = inner.begun;
        let mut state = subscriber.state();
        if let Phase::CatchingUp { from, attached, tell, held, held_bytes, .. } = &mut state.phase {
            (*from, *attached, *tell) = (begin, Some(begun), replayed.is_some());
            for row in replayed.into_iter().flatten() {
                *held_bytes += row.size;
                held.push(Arc::new(Row::new(row, &self.0.held)));
            }
        }
    }

    /// Returns the next step of a stream that catches up. If it lacks at most `close` entries of every conversation,
    /// the tail takes over.
    pub fn next_step(&self, subscriber: &Arc<Subscriber>, most_convos: usize, close: i64) -> NextStep {
        let mut inner = self.inner();
        let begun = inner.begun;
        let passed = *self.0.passed.borrow();
        let mut state = subscriber.state();
        if state.has_ended() {
            return NextStep::Done;
        }
        let Phase::CatchingUp { from, held, held_bytes, attached: Some(attached), tell, looked } = &mut state.phase
        else {
            return NextStep::Done;
        };
        // Rows that were committed before it was attached have been reported by then.
        if passed <= *attached {
            return NextStep::AwaitPass(*attached);
        }
        if !held.is_empty() {
            *held_bytes = 0;
            return NextStep::Rows(std::mem::take(held));
        }
        let (from, tell, begin) = (from.clone(), *tell, *looked);
        let mut far = Vec::new();
        let mut near = Vec::new();
        // Begins where entries were missing at the last look, and goes around once. While entries are missing, a part
        // of the conversations suffices.
        let (before, beyond) = state.convos.split_at(begin.min(state.convos.len()));
        let mut first = 0;
        for (seen, (place, name)) in (begin..).zip(beyond).chain((0..).zip(before)).enumerate() {
            if far.len() == most_convos || !far.is_empty() && seen >= MAX_ATTACHED_AT_ONCE {
                break;
            }
            let Some(channel) = inner.channels.get(name) else { continue };
            let Some(listener) = channel.listeners.get(&subscriber.id) else { continue };
            match channel.head - listener.position {
                ..=0 => {}
                lag if lag <= close => near.push(name.clone()),
                _ => {
                    first = if far.is_empty() { place } else { first };
                    far.push(Gap { convo: name.clone(), position: listener.position, head: channel.head });
                }
            }
        }
        if !far.is_empty() {
            if let Phase::CatchingUp { looked, .. } = &mut state.phase {
                *looked = first;
            }
            return NextStep::Entries(far);
        }
        state.phase = Phase::Joining { from, since: begun, tell };
        drop(state);
        inner.unread.extend(near);
        inner.unsettled.push(subscriber.clone());
        drop(inner);
        self.0.wake.notify_one();
        NextStep::Done
    }

    /// Queues entries for a stream that catches up, if its membership allows. `upto` has the position up to which each
    /// conversation was read.
    pub fn supply(
        &self,
        subscriber: &Arc<Subscriber>,
        entries: Entries,
        memberships: &[RosterEntry],
        upto: &[(&str, i64)],
    ) {
        let mut inner = self.inner();
        let Some(cursor) = inner.cursor(entries.newest) else { return };
        let mut state = subscriber.state();
        if !matches!(state.phase, Phase::CatchingUp { .. }) {
            return;
        }
        for entry in entries.entries {
            let Some(channel) = inner.channels.get_mut(entry.convo_id.as_str()) else { continue };
            let Some(listener) = channel.listeners.get_mut(&subscriber.id) else { continue };
            let membership = memberships.iter().find(|one| one.convo == entry.convo_id);
            if membership.is_some_and(|one| one.since != listener.since) {
                // Some of these may belong to another membership. The stream is cut and resumes.
                state.end(End::Announced(Info::Reset));
                return;
            }
            if entry.seq > listener.position && membership.is_some_and(|one| listener.may_see(one, entry.seq)) {
                listener.position = entry.seq;
                state.push_anyway(&Arc::new(Published::new(message(entry), cursor.clone()).counted(&self.0.held)));
            }
        }
        // Entries that it may not see, or that were deleted, are not missing.
        for (name, seq) in upto {
            let listener = inner.channels.get_mut(*name).and_then(|channel| channel.listeners.get_mut(&subscriber.id));
            if let Some(listener) = listener {
                listener.position = listener.position.max(*seq);
            }
        }
    }

    /// Queues entries of a membership that has ended for a stream that catches up, before its end.
    pub fn supply_rest(&self, subscriber: &Subscriber, entries: Entries) {
        let Some(cursor) = self.inner().cursor(entries.newest) else { return };
        let mut state = subscriber.state();
        if !matches!(state.phase, Phase::CatchingUp { .. }) {
            return;
        }
        for entry in entries.entries {
            state.push_anyway(&Arc::new(Published::new(message(entry), cursor.clone()).counted(&self.0.held)));
        }
    }

    /// Queues rows for a stream that catches up. `memberships` are those of the conversations that it joined by them.
    pub fn supply_rows(&self, subscriber: &Arc<Subscriber>, rows: &[Arc<Row>], memberships: &[RosterEntry]) {
        let mut inner = self.inner();
        for row in rows {
            inner.deliver(subscriber, row, memberships, usize::MAX);
        }
    }

    /// Takes a typing indicator. It is handed out with the next pass, after earlier changes of the roster.
    pub fn queue_typing(&self, typing: Typing) {
        let mut inner = self.inner();
        if inner.channels.contains_key(typing.convo_id.as_str()) && inner.typing.len() < MAX_TYPING {
            inner.typing.push(typing);
            drop(inner);
            self.0.wake.notify_one();
        }
    }
}
