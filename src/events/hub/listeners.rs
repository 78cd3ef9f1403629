//! The map itself, and the events that a row means for one stream. All of it happens under the lock of the hub.

use std::collections::HashMap;
use std::sync::Arc;

use crate::events::cursor::Cursor;
use crate::events::event::{Action, Event, Info, Published, Row};
use crate::events::subscriber::{End, Phase, Subscriber};
use crate::ids::{ConvoId, Did};
use crate::store::Topic;
use crate::store::events::{EventPayload, EventRow, RosterEntry};

use super::{Channel, Inner, Listener};

impl Inner {
    pub(super) fn add_topic(&mut self, topic: Topic) {
        *self.topics.entry(topic).or_default() += 1;
    }

    pub(super) fn remove_topic(&mut self, topic: Topic) {
        if let Some(count) = self.topics.get_mut(&topic) {
            *count -= 1;
            if *count == 0 {
                self.topics.remove(&topic);
            }
        }
    }

    /// Adds a listener to a conversation, and returns the name that the hub has for it. A conversation without
    /// listeners is read from `head` on in the next pass.
    pub(super) fn attach(&mut self, convo: &str, head: i64, listener: Listener) -> Arc<str> {
        let name = match self.channels.get_key_value(convo) {
            Some((name, _)) => name.clone(),
            None => {
                let name: Arc<str> = convo.into();
                self.add_topic(convo.into());
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

    /// Ends the attachment of a stream to one conversation.
    pub(super) fn leave(&mut self, subscriber: &Subscriber, convo: &str) {
        let Some(channel) = self.channels.get_mut(convo) else { return };
        channel.listeners.remove(&subscriber.id);
        if channel.listeners.is_empty() {
            self.channels.remove(convo);
            self.unread.remove(convo);
            self.remove_topic(convo.into());
        }
    }

    /// Ends all attachments of a stream. It counts as open until it is removed.
    pub(super) fn detach(&mut self, subscriber: &Subscriber) {
        self.unattached.remove(&subscriber.id);
        let convos = std::mem::take(&mut subscriber.state().convos);
        for convo in convos {
            self.leave(subscriber, &convo);
        }
    }

    pub(super) fn remove(&mut self, subscriber: &Subscriber) {
        subscriber.end(End::Finished);
        self.detach(subscriber);
        let did = subscriber.did.as_str();
        let Some(own) = self.people.get_mut(did) else { return };
        let before = own.len();
        own.retain(|one| one.id != subscriber.id);
        self.open -= before - own.len();
        if own.is_empty() {
            self.people.remove(did);
            self.remove_topic(did.into());
        }
    }

    /// Returns the streams that a row may concern.
    pub(super) fn audience_of(&self, row: &EventRow) -> Vec<Arc<Subscriber>> {
        let of = |did: &Did| self.people.get(did.as_str()).map_or(&[][..], Vec::as_slice);
        if let Some(recipient) = &row.recipient {
            return of(recipient).to_vec();
        }
        let mut audience: HashMap<u64, &Arc<Subscriber>> = HashMap::new();
        if let Some(channel) = row.convo.as_ref().and_then(|convo| self.channels.get(convo.as_str())) {
            audience.extend(channel.listeners.iter().map(|(id, listener)| (*id, &listener.subscriber)));
        }
        if let EventPayload::Joined { dids, .. } = &row.what {
            audience.extend(dids.iter().flat_map(of).map(|subscriber| (subscriber.id, subscriber)));
        }
        audience.extend(self.unattached.iter().map(|(id, subscriber)| (*id, subscriber)));
        audience.into_values().cloned().collect()
    }

    /// Queues the events that a row means for one stream. Read positions wait until the entries up to them have been
    /// sent.
    pub(super) fn deliver(&mut self, to: &Arc<Subscriber>, row: &Arc<Row>, memberships: &[RosterEntry], buffer: usize) {
        if !to.wants(row.convo.as_ref()) {
            return;
        }
        let Some(watermark) = self.cursor(row.tx) else { return };
        let held = self.held.clone();
        let say = |event: Event| {
            let mut state = to.state();
            if !state.push(&Arc::new(Published::new(event, watermark.clone()).counted(&held)), buffer) {
                state.end(End::Announced(Info::SlowConsumer));
            }
        };
        let action = |did: &Did, actor: &Did| if did == actor { Action::Left } else { Action::Removed };
        match (&row.convo, &row.what) {
            (Some(convo), EventPayload::Joined { dids, actor, generation, epoch, seq, welcome })
                if dids.contains(&to.did) =>
            {
                let (convo_id, generation, epoch) = (convo.clone(), *generation, *epoch);
                let event_id = row.name(&to.did);
                say(Event::Conversation { event_id, convo_id, actor: actor.clone(), generation, epoch, seq: *seq });
                if *welcome && *actor != to.did {
                    say(Event::Welcome { convo_id: convo.clone(), generation, epoch });
                }
                // The membership may have ended since; then its entries still come, and its end after them. If a new
                // membership has replaced it, only the rows know where it ended.
                match memberships.iter().find(|one| one.convo == *convo && one.did == to.did) {
                    Some(another) if another.joined_seq > *seq && to.state().is_tailed() => {
                        to.end(End::Announced(Info::Reset));
                    }
                    Some(membership) => self.join(to, membership, *seq, watermark.clone()),
                    None => {}
                }
            }
            (Some(convo), EventPayload::Joined { dids, actor, generation, epoch, seq, .. })
                if self.is_attached(to, convo) =>
            {
                for did in dids {
                    let (event_id, convo_id) = (row.name(did), convo.clone());
                    let (did, actor) = (did.clone(), actor.clone());
                    say(Event::MembershipChange {
                        event_id,
                        convo_id,
                        did,
                        action: Action::Joined,
                        actor,
                        generation: *generation,
                        epoch: *epoch,
                        seq: *seq,
                    });
                }
            }
            (Some(convo), EventPayload::Left { did, actor, generation, epoch, seq })
                if *did != to.did && self.is_attached(to, convo) =>
            {
                let (convo_id, action) = (convo.clone(), action(did, actor));
                let (event_id, did, actor) = (row.name(did), did.clone(), actor.clone());
                let (generation, epoch, seq) = (*generation, *epoch, *seq);
                say(Event::MembershipChange { event_id, convo_id, did, action, actor, generation, epoch, seq });
            }
            (Some(convo), EventPayload::Reset { generation, group_id, epoch, seq, actor, welcomed })
                if self.is_attached(to, convo) =>
            {
                say(Event::ConversationReset {
                    event_id: row.name(&to.did),
                    convo_id: convo.clone(),
                    generation: *generation,
                    group_id: group_id.clone(),
                    epoch: *epoch,
                    seq: *seq,
                    actor: actor.clone(),
                });
                if welcomed.contains(&to.did) {
                    say(Event::Welcome { convo_id: convo.clone(), generation: Some(*generation), epoch: *epoch });
                }
            }
            (Some(convo), EventPayload::Fork { generation, epoch }) if self.is_attached(to, convo) => {
                let (event_id, convo_id) = (row.name(&to.did), convo.clone());
                say(Event::ForkSuspected { event_id, convo_id, generation: *generation, epoch: *epoch });
            }
            (Some(convo), EventPayload::Wedged { generation, epoch, state }) if self.is_attached(to, convo) => {
                let (event_id, convo_id) = (row.name(&to.did), convo.clone());
                let (generation, epoch, state) = (*generation, *epoch, *state);
                say(Event::ConversationWedged { event_id, convo_id, generation, epoch, state });
            }
            (
                Some(convo),
                EventPayload::ReadditionRequested {
                    user_did,
                    request_id,
                    requested_at,
                    device_id,
                    key_package,
                    key_package_hash,
                    reason,
                },
            ) if self.is_attached(to, convo) => say(Event::ReadditionRequested {
                event_id: row.name(&to.did),
                convo_id: convo.clone(),
                user_did: user_did.clone(),
                request_id: request_id.clone(),
                requested_at: *requested_at,
                device_id: device_id.clone(),
                key_package: key_package.clone(),
                key_package_hash: key_package_hash.clone(),
                reason: reason.clone(),
            }),
            (Some(convo), EventPayload::Removed { .. }) if self.lacks(to, convo, row) => {
                // It resumes, and is sent the missing entries first.
                to.end(End::Announced(Info::Reset));
            }
            (Some(convo), EventPayload::Removed { did, actor, generation, epoch, seq }) => {
                let (convo_id, action) = (convo.clone(), action(did, actor));
                let (event_id, actor) = (row.name(did), actor.clone());
                let (generation, epoch, seq) = (*generation, *epoch, *seq);
                say(Event::Removed { event_id, convo_id, action, actor, generation, epoch, seq });
                let mut state = to.state();
                state.convos.retain(|name| **name != *convo.as_str());
                state.forget_positions(convo);
                drop(state);
                self.leave(to, convo.as_str());
                if to.only.is_some() {
                    to.end(End::Finished);
                }
            }
            (Some(convo), EventPayload::Read { .. } | EventPayload::Cursor { .. }) => {
                let mut state = to.state();
                if matches!(state.phase, Phase::Live) {
                    drop(state);
                    position(convo, row, &to.did).into_iter().for_each(say);
                } else {
                    state.hold_position(convo, row);
                }
            }
            (_, EventPayload::KeyPackagesLow { available, device_id }) => {
                say(Event::KeyPackagesLow { available: *available, device_id: device_id.clone() });
            }
            (_, EventPayload::LastResortUsed { key_package_hash, cipher_suite }) => say(Event::LastResortUsed {
                key_package_hash: key_package_hash.clone(),
                cipher_suite: cipher_suite.clone(),
            }),
            (Some(convo), EventPayload::WelcomeRejected { did, epoch, key_package_hash })
                if *did != to.did && self.is_attached(to, convo) =>
            {
                let (event_id, convo_id) = (row.name(did), convo.clone());
                let (did, key_package_hash) = (did.clone(), key_package_hash.clone());
                say(Event::WelcomeRejected { event_id, convo_id, did, epoch: *epoch, key_package_hash });
            }
            (convo, EventPayload::Mailbox { state, reason }) => {
                say(Event::Mailbox { convo_id: convo.clone(), state: state.clone(), reason: reason.clone() });
            }
            (Some(convo), EventPayload::NewDevice { did, device_id, addition_id }) if self.is_attached(to, convo) => {
                say(Event::NewDevice {
                    convo_id: convo.clone(),
                    user_did: did.clone(),
                    device_id: device_id.clone(),
                    device_credential_did: format!("{did}#{device_id}"),
                    pending_addition_id: addition_id.clone(),
                });
            }
            (Some(convo), EventPayload::DeviceDeleted { did, device_id }) if self.is_attached(to, convo) => {
                say(Event::DeviceDeleted {
                    convo_id: convo.clone(),
                    user_did: did.clone(),
                    device_id: device_id.clone(),
                    device_credential_did: format!("{did}#{device_id}"),
                });
            }
            (Some(convo), EventPayload::GroupInfoRequested { did, epoch, requested_at })
                if self.is_attached(to, convo) =>
            {
                let (convo_id, requested_by) = (convo.clone(), did.clone());
                say(Event::GroupInfoRequested { convo_id, requested_by, requested_at: *requested_at, epoch: *epoch });
            }
            _ => {}
        }
    }

    /// Returns whether a stream that the tail supplies lacks entries from before this end of its membership.
    pub(super) fn lacks(&self, to: &Subscriber, convo: &ConvoId, row: &EventRow) -> bool {
        let listener = self.channels.get(convo.as_str()).and_then(|channel| channel.listeners.get(&to.id));
        match (listener, &row.what) {
            (Some(listener), EventPayload::Removed { seq, .. }) => listener.position < *seq && to.state().is_tailed(),
            _ => false,
        }
    }

    pub(super) fn is_attached(&self, subscriber: &Subscriber, convo: &ConvoId) -> bool {
        self.channels.get(convo.as_str()).is_some_and(|channel| channel.listeners.contains_key(&subscriber.id))
    }

    /// Attaches a stream to a conversation that its caller has joined at `position`. The tail supplies it from there
    /// on; entries that others have had already come with the next pass.
    pub(super) fn join(
        &mut self,
        subscriber: &Arc<Subscriber>,
        membership: &RosterEntry,
        position: i64,
        watermark: Cursor,
    ) {
        let convo = membership.convo.as_str();
        let known = self.channels.get(convo).and_then(|channel| channel.listeners.get(&subscriber.id));
        if known.is_some_and(|listener| listener.since == membership.since) {
            return;
        }
        let listener = Listener { subscriber: subscriber.clone(), position, since: membership.since, checked: None };
        let name = self.attach(convo, position, listener);
        self.unread.insert(name.clone());
        let begun = self.begun;
        let mut state = subscriber.state();
        if !state.convos.contains(&name) {
            state.convos.push(name);
        }
        match &mut state.phase {
            // It waits for the next pass, because the running one may have read already.
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

/// Returns the event of a row that moves a read position or a cursor.
pub(super) fn position(convo: &ConvoId, row: &EventRow, did: &Did) -> Option<Event> {
    match &row.what {
        EventPayload::Read { seq, message_id, read_at } => Some(Event::Read {
            convo_id: convo.clone(),
            did: did.clone(),
            seq: *seq,
            message_id: message_id.clone(),
            read_at: *read_at,
        }),
        EventPayload::Cursor { last_seen } => {
            Some(Event::CursorMoved { convo_id: convo.clone(), last_seen: last_seen.clone() })
        }
        _ => None,
    }
}
