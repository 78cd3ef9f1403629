//! Events as clients are sent them, field for field as `blue.catbird.mls.streamConvoEvents` and
//! `blue.catbird.mls.subscribeConvoEvents` declare them, without a framing.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use actix_web::web::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{ConvoId, Did, ServerIncarnation};
use crate::store::events::EventRow;
use crate::wire::{Body, ConvoState, MessageView, datetime};

use super::cursor::Cursor;

/// Approximate size of an event without its ciphertext, in bytes.
const FRAME: usize = 512;
/// Number of encodings of an event.
const ENCODINGS: usize = 3;

/// One event.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Event {
    /// An entry of a conversation's log.
    Message { prev_seq: i64, message: MessageView },
    /// Another member joined, left or was removed.
    MembershipChange {
        event_id: String,
        convo_id: ConvoId,
        did: Did,
        action: Action,
        actor: Did,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        epoch: i64,
        seq: i64,
    },
    /// The recipient has joined a conversation.
    Conversation {
        event_id: String,
        convo_id: ConvoId,
        actor: Did,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        epoch: i64,
        seq: i64,
    },
    /// A Welcome waits for the recipient.
    Welcome {
        convo_id: ConvoId,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        epoch: i64,
    },
    /// The recipient is no longer a member. No event of the conversation follows.
    Removed {
        event_id: String,
        convo_id: ConvoId,
        action: Action,
        actor: Did,
        #[serde(skip_serializing_if = "Option::is_none")]
        generation: Option<i64>,
        epoch: i64,
        seq: i64,
    },
    /// Few of the recipient's key packages are left.
    KeyPackagesLow {
        available: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_id: Option<String>,
    },
    /// A last-resort package of the recipient was issued.
    LastResortUsed { key_package_hash: String, cipher_suite: String },
    /// Another member cannot open its Welcome.
    WelcomeRejected {
        event_id: String,
        convo_id: ConvoId,
        did: Did,
        epoch: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_package_hash: Option<String>,
    },
    /// The recipient's mailbox was verified, or is given up.
    Mailbox {
        #[serde(skip_serializing_if = "Option::is_none")]
        convo_id: Option<ConvoId>,
        state: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The conversation has another group.
    ConversationReset {
        event_id: String,
        convo_id: ConvoId,
        generation: i64,
        group_id: String,
        epoch: i64,
        seq: i64,
        actor: Did,
    },
    /// Members may be in different states of the same epoch.
    ForkSuspected { event_id: String, convo_id: ConvoId, generation: i64, epoch: i64 },
    /// The conversation is wedged, or no longer is.
    ConversationWedged { event_id: String, convo_id: ConvoId, generation: i64, epoch: i64, state: ConvoState },
    /// A member asks to be added to the group again.
    ReadditionRequested {
        event_id: String,
        convo_id: ConvoId,
        user_did: Did,
        request_id: String,
        #[serde(serialize_with = "datetime")]
        requested_at: DateTime<Utc>,
        #[serde(skip_serializing_if = "Option::is_none")]
        device_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_package: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_package_hash: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The recipient has read up to here, on this device or another.
    Read {
        convo_id: ConvoId,
        did: Did,
        seq: i64,
        #[serde(skip_serializing_if = "Option::is_none")]
        message_id: Option<String>,
        #[serde(serialize_with = "datetime")]
        read_at: DateTime<Utc>,
    },
    /// The recipient has moved its cursor here, on this device or another.
    CursorMoved { convo_id: ConvoId, last_seen: String },
    /// A member needs the GroupInfo of the conversation's present epoch.
    GroupInfoRequested {
        convo_id: ConvoId,
        requested_by: Did,
        #[serde(serialize_with = "datetime")]
        requested_at: DateTime<Utc>,
        epoch: i64,
    },
    /// A device of a member is to be added to the group.
    NewDevice {
        convo_id: ConvoId,
        user_did: Did,
        device_id: String,
        device_credential_did: String,
        pending_addition_id: String,
    },
    /// A device of a member was deleted; its leaf is to be removed from the group.
    DeviceDeleted { convo_id: ConvoId, user_did: Did, device_id: String, device_credential_did: String },
    /// Another member is typing, or has stopped.
    Typing(Typing),
    /// About the stream itself.
    Info {
        info: Info,
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
}

impl Event {
    /// Name of the type without the method, as `event:`, the headers of frames and the metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Message { .. } => "messageEvent",
            Event::MembershipChange { .. } => "membershipChangeEvent",
            Event::Conversation { .. } => "conversationEvent",
            Event::Welcome { .. } => "welcomeEvent",
            Event::Removed { .. } => "removedEvent",
            Event::KeyPackagesLow { .. } => "keyPackagesLowEvent",
            Event::LastResortUsed { .. } => "lastResortUsedEvent",
            Event::WelcomeRejected { .. } => "welcomeRejectedEvent",
            Event::Mailbox { .. } => "mailboxEvent",
            Event::ConversationReset { .. } => "conversationResetEvent",
            Event::ForkSuspected { .. } => "forkSuspectedEvent",
            Event::ConversationWedged { .. } => "conversationWedgedEvent",
            Event::ReadditionRequested { .. } => "readditionRequestedEvent",
            Event::Read { .. } => "readEvent",
            Event::CursorMoved { .. } => "cursorEvent",
            Event::GroupInfoRequested { .. } => "groupInfoRequestedEvent",
            Event::NewDevice { .. } => "newDeviceEvent",
            Event::DeviceDeleted { .. } => "deviceDeletedEvent",
            Event::Typing(_) => "typingEvent",
            Event::Info { .. } => "infoEvent",
        }
    }

    /// Approximate number of bytes on the wire.
    fn size(&self) -> usize {
        match self {
            Event::Message { message, .. } => FRAME + message.ciphertext.size() / 3 * 4,
            _ => FRAME,
        }
    }

    /// Returns the ciphertext that has to be read from the blob store before the event can be written.
    pub fn missing(&self) -> Option<&Body> {
        match self {
            Event::Message { message, .. } => message.ciphertext.missing(),
            _ => None,
        }
    }
}

/// An event with its cursor, shared by all streams that are sent it.
#[derive(Debug)]
pub struct Published {
    pub event: Event,
    pub cursor: Cursor,
    /// Incarnation of the database in which it was read. `None` for a final event, whose cursor may belong to an older
    /// one.
    incarnation: Option<ServerIncarnation>,
    pub size: usize,
    /// Encodings of the event with `cursor`, made when they are first needed. Their order is up to [`crate::streaming`].
    encodings: [OnceLock<Bytes>; ENCODINGS],
    _held: Option<Held>,
}

/// A row that is queued for streams. Its bytes are counted as those of an event are.
#[derive(Debug)]
pub struct Row {
    row: EventRow,
    _held: Held,
}

impl Row {
    pub fn new(row: EventRow, all: &Arc<AtomicUsize>) -> Self {
        let size = FRAME + row.size;
        all.fetch_add(size, Ordering::Relaxed);
        Self { row, _held: Held { all: all.clone(), size } }
    }
}

impl Deref for Row {
    type Target = EventRow;

    fn deref(&self) -> &EventRow {
        &self.row
    }
}

/// Part of one queued event in the bytes of all queued events.
#[derive(Debug)]
struct Held {
    all: Arc<AtomicUsize>,
    size: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.size, Ordering::Relaxed);
    }
}

impl Published {
    pub fn new(event: Event, cursor: Cursor) -> Self {
        let (size, incarnation) = (event.size(), Some(cursor.incarnation()));
        Self { event, cursor, incarnation, size, encodings: Default::default(), _held: None }
    }

    /// Counts the event in `all` bytes until it is dropped.
    pub fn counted(mut self, all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(self.size, Ordering::Relaxed);
        self._held = Some(Held { all: all.clone(), size: self.size });
        self
    }

    /// Returns an encoding of the event. Streams that were given the same cursor share it; for any other cursor it is made anew.
    pub fn encoded(&self, encoding: usize, cursor: &Cursor, encode: impl FnOnce() -> Bytes) -> Bytes {
        if *cursor == self.cursor { self.encodings[encoding].get_or_init(encode).clone() } else { encode() }
    }

    /// Returns the event and a cursor as every framing writes them. `method` prefixes the type.
    pub fn view(&self, method: &str, cursor: &Cursor) -> impl Serialize + '_ {
        let kind = format!("{method}#{}", self.event.name());
        View { kind, event: &self.event, cursor: cursor.to_string(), server_incarnation: self.incarnation }
    }
}

#[derive(Serialize)]
struct View<'a> {
    #[serde(rename = "$type")]
    kind: String,
    #[serde(flatten)]
    event: &'a Event,
    cursor: String,
    #[serde(rename = "serverIncarnation", skip_serializing_if = "Option::is_none")]
    server_incarnation: Option<ServerIncarnation>,
}

/// Change of a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Joined,
    /// The member left.
    Left,
    /// Another member removed it.
    Removed,
}

/// State of the stream itself, sent as an event. All but `Replayed` end the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Info {
    /// Everything since the cursor has been sent; live events follow.
    Replayed,
    /// The client reads too slowly. Its cursor leads on.
    SlowConsumer,
    /// The replica stops.
    Draining,
    /// The replica no longer knows what was sent, or cannot read the next ciphertext from the blob store. The cursor leads on.
    Reset,
    /// An operator has suspended the caller.
    Suspended,
    /// The stream has reached its maximum age. The cursor leads on.
    Expired,
    /// The caller has opened more streams than it may, and this was the oldest.
    Replaced,
    /// The key that opened the stream no longer speaks for the caller.
    IdentityChanged,
}

impl Info {
    /// States that end a stream.
    pub(super) const ENDS: [Self; 7] = [
        Self::SlowConsumer,
        Self::Draining,
        Self::Reset,
        Self::Suspended,
        Self::Expired,
        Self::Replaced,
        Self::IdentityChanged,
    ];

    /// Name on the wire and in the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Info::Replayed => "replayed",
            Info::SlowConsumer => "slowConsumer",
            Info::Draining => "draining",
            Info::Reset => "reset",
            Info::Suspended => "suspended",
            Info::Expired => "expired",
            Info::Replaced => "replaced",
            Info::IdentityChanged => "identityChanged",
        }
    }
}

impl Published {
    /// Returns the final event of a stream that the server ends, and the milliseconds after which the client should come back. The wait
    /// is random, because clients that are sent away together should not come back together.
    pub fn final_event(info: Info, cursor: Cursor, seed: u64) -> (Self, u64) {
        let (least, spread) = match info {
            Info::Draining | Info::Reset | Info::Suspended | Info::IdentityChanged => (250, 4_500),
            Info::SlowConsumer | Info::Replayed | Info::Expired => (250, 750),
            // Clients that reconnect automatically would replace each other for ever.
            Info::Replaced => (30_000, 30_000),
        };
        let retry = least + ulid::Ulid::new().random().wrapping_add(u128::from(seed)) as u64 % spread;
        let event = Self::new(Event::Info { info, retry_after_ms: Some(retry) }, cursor);
        (Self { incarnation: None, ..event }, retry)
    }
}

/// Typing indicator, which is never stored.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Typing {
    pub convo_id: ConvoId,
    pub did: Did,
    pub is_typing: bool,
}
