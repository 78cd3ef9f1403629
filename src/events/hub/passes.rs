//! The tail's side of the hub: what it has to read, and handing out what it has read.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crate::events::cursor::Cursor;
use crate::events::event::{Event, Info, Published, Row, Typing};
use crate::events::subscriber::{End, Phase};
use crate::ids::{ConvoId, Did};
use crate::store::events::{Entries, EventRow, Moment, RosterEntry};

use super::listeners::position;
use super::{Checked, Hub, Mark, message};

/// A pass of the tail that has begun.
pub struct Pass {
    pub pass: u64,
    /// True if any stream is open.
    pub listened: bool,
    pub typing: Vec<Typing>,
}

impl Hub {
    /// Waits until a pass is wanted.
    pub async fn woken(&self) {
        self.0.wake.notified().await;
    }

    pub fn begin_pass(&self) -> Pass {
        let mut inner = self.inner();
        inner.begun += 1;
        Pass { pass: inner.begun, listened: inner.open > 0, typing: std::mem::take(&mut inner.typing) }
    }

    /// Notes that these conversations have new entries.
    pub fn mark_unread(&self, convos: &[ConvoId]) {
        let mut inner = self.inner();
        for convo in convos {
            if let Some((name, _)) = inner.channels.get_key_value(convo.as_str()) {
                let name = name.clone();
                inner.unread.insert(name);
            }
        }
    }

    /// Takes some conversations to read, each with the position after which a stream lacks entries.
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

    /// Puts back conversations that could not be read to their end.
    pub fn put_back(&self, convos: Vec<(Arc<str>, i64)>) {
        let mut inner = self.inner();
        let still = convos.into_iter().filter(|(name, _)| inner.channels.contains_key(name)).collect::<Vec<_>>();
        inner.unread.extend(still.into_iter().map(|(name, _)| name));
    }

    /// Returns the callers whose membership must be read before entries of these conversations are handed out: all
    /// listeners but those whose membership was read at this version of the roster.
    pub fn audience<'e>(&self, rosters: &'e [(ConvoId, i64)]) -> Vec<(&'e ConvoId, Did)> {
        let inner = self.inner();
        let mut audience = Vec::new();
        for (convo, roster) in rosters {
            let Some(channel) = inner.channels.get(convo.as_str()) else { continue };
            let unchecked = channel.listeners.values().filter(|listener| !listener.is_checked(*roster));
            let mut dids: Vec<&Did> = unchecked.map(|listener| &listener.subscriber.did).collect();
            dids.sort_unstable();
            dids.dedup();
            audience.extend(dids.into_iter().map(|did| (convo, did.clone())));
        }
        audience
    }

    /// Queues entries, ascending in each conversation, for the listeners whose membership allows it. `after` has the
    /// position after which each conversation was read. The memberships were read after the entries.
    pub fn publish(&self, after: &[(&str, i64)], page: Entries, memberships: &[RosterEntry]) {
        let after: HashMap<&str, i64> = after.iter().copied().collect();
        let memberships: HashMap<(&str, &str), &RosterEntry> =
            memberships.iter().map(|one| ((one.convo.as_str(), one.did.as_str()), one)).collect();
        let rosters: HashMap<&str, i64> =
            page.rosters.iter().map(|(convo, roster)| (convo.as_str(), *roster)).collect();
        let mut guard = self.inner();
        // One borrow of the guard, because its fields are borrowed separately below.
        let inner = &mut *guard;
        let Some(watermark) = inner.cursor(page.newest) else { return };
        for entry in page.entries {
            let (convo, seq) = (entry.convo_id.clone(), entry.seq);
            let Some(channel) = inner.channels.get_mut(convo.as_str()) else { continue };
            let read_after = after.get(convo.as_str()).copied().unwrap_or(seq);
            let event = Arc::new(Published::new(message(entry), watermark.clone()).counted(&inner.held));
            for listener in channel.listeners.values_mut() {
                let mut state = listener.subscriber.state();
                if !state.is_tailed() || listener.position >= seq {
                    continue;
                }
                // It has joined since the read began and lacks earlier entries. Its joining made the conversation
                // unread, so the next read brings them all.
                if listener.position < read_after {
                    continue;
                }
                let may_see = match memberships.get(&(convo.as_str(), listener.subscriber.did.as_str())) {
                    Some(membership) if membership.since != listener.since => {
                        // The entry may belong to another membership. The stream is cut before any cursor claims the
                        // entry, and resumes.
                        state.end(End::Announced(Info::Reset));
                        inner.unsettled.push(listener.subscriber.clone());
                        continue;
                    }
                    Some(membership) => {
                        listener.checked = Checked::of(membership);
                        listener.may_see(membership, seq)
                    }
                    None => match listener.checked {
                        Some(checked) if rosters.get(convo.as_str()) == Some(&checked.roster) => {
                            seq > checked.joined_seq
                        }
                        // It came after the memberships were read. The next pass serves it.
                        _ => continue,
                    },
                };
                if may_see && !state.push(&event, self.0.buffer) {
                    state.end(End::Announced(Info::SlowConsumer));
                    inner.unsettled.push(listener.subscriber.clone());
                }
                listener.position = seq;
            }
            channel.head = channel.head.max(seq);
        }
        drop(guard);
        self.shed_load();
    }

    /// Returns the people among these who have streams here.
    pub fn listening<'r>(&self, dids: impl Iterator<Item = &'r Did>) -> Vec<&'r Did> {
        let inner = self.inner();
        dids.filter(|did| inner.people.contains_key(did.as_str())).collect()
    }

    /// Queues rows for the streams that they concern. `memberships` are those of joiners with streams here, read after
    /// the rows.
    pub fn publish_rows(&self, rows: Vec<EventRow>, memberships: &[RosterEntry]) {
        let mut inner = self.inner();
        for row in rows {
            let row = Arc::new(Row::new(row, &inner.held));
            for subscriber in inner.audience_of(&row) {
                let mut state = subscriber.state();
                match &mut state.phase {
                    Phase::CatchingUp { .. } => {
                        if !state.hold(&row, self.0.buffer) {
                            state.end(End::Announced(Info::SlowConsumer));
                        }
                    }
                    Phase::Joining { .. } | Phase::Live => {
                        drop(state);
                        inner.deliver(&subscriber, &row, memberships, self.0.buffer);
                    }
                }
            }
        }
    }

    /// Queues typing indicators.
    pub fn publish_typing(&self, typing: Vec<Typing>) {
        let mut inner = self.inner();
        let Some(watermark) = inner.cursor(0) else { return };
        for typing in typing {
            let Some(channel) = inner.channels.get(typing.convo_id.as_str()) else { continue };
            let did = typing.did.clone();
            let event = Arc::new(Published::new(Event::Typing(typing), watermark.clone()));
            for listener in channel.listeners.values().filter(|listener| listener.subscriber.did != did) {
                let mut state = listener.subscriber.state();
                // A stream is not cut for a lost typing indicator.
                if state.is_tailed() {
                    state.push(&event, self.0.buffer);
                }
            }
        }
    }

    /// Ends a pass. Everything that was visible at its moment has been queued.
    pub fn end_pass(&self, pass: u64, moment: &Moment) {
        {
            let mut inner = self.inner();
            let mut moment = moment.clone();
            if let Some(last) = inner.watermark.as_ref().filter(|last| last.moment.incarnation == moment.incarnation) {
                moment.has_read(last.moment.seen().newest);
            }
            let watermark = Cursor::from(&moment);
            inner.watermark = Some(Mark { moment, cursor: watermark.clone() });
            for subscriber in std::mem::take(&mut inner.unsettled) {
                let mut state = subscriber.state();
                if state.has_ended() {
                    drop(state);
                    inner.detach(&subscriber);
                    continue;
                }
                match state.phase {
                    Phase::Joining { since, tell, .. } if since < pass => {
                        // Every entry up to these positions has been queued, and no cursor claims the positions yet.
                        for (convo, row) in state.take_positions() {
                            if let Some(event) = position(&convo, &row, &subscriber.did) {
                                let event = Published::new(event, watermark.clone()).counted(&inner.held);
                                state.push_anyway(&Arc::new(event));
                            }
                        }
                        state.phase = Phase::Live;
                        if tell {
                            let event = Event::Info { info: Info::Replayed, retry_after_ms: None };
                            state.push_anyway(&Arc::new(Published::new(event, watermark.clone())));
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
        *self.0.passed_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.passed.send_replace(pass);
    }
}
