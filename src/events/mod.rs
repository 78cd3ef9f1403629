//! Events: from a committed row to every client that may see it. docs/events.md proves that nothing is lost and nothing
//! leaks.
//!
//! A committed row is the only source of an event, except for typing indicators, which are never stored. A log entry is
//! its own event. Everything else is a row of `event_stream`, written by the transaction that caused it. Methods do not
//! use the hub.
//!
//! - [`notifier`] notifies all replicas after a commit. A lost notification costs time only.
//! - `tail` is the only reader of this replica. It reads in passes, and hands what it reads to the hub.
//! - [`hub`] knows who follows what, and queues events for each [`subscriber`], which is one open stream.
//! - `catch_up` brings a stream from its cursor to the position of the tail.
//! - [`identities`] ends streams whose callers have lost their keys.

mod catch_up;
pub(crate) mod cursor;
pub(crate) mod event;
pub mod hub;
pub mod identities;
mod metrics;
pub(crate) mod notifier;
pub(crate) mod subscriber;
mod tail;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::auth::Authenticator;
use crate::auth::key::PublicKey;
use crate::background::{Background, tasks};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::limits::Account;
use crate::redis::Redis;
use crate::store::events::{Moment, Present, Seen};
use crate::store::{Reader, Store, members};

use cursor::{Cursor, Sealed};
use event::{Info, Typing};
use hub::Hub;
use notifier::Notifier;
use subscriber::Subscriber;

pub use metrics::EventMetrics;
pub use tail::POLL_INTERVAL;

/// Parts of the streams that get their keepalives one after another within an interval.
const KEEPALIVE_PARTS: u64 = 15;
/// Longest wait of a new stream for the tail.
const TAIL_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait of a new stream for a slot at the database, after that.
const SLOT_TIMEOUT: Duration = Duration::from_secs(3);
/// Most conversations of one stream.
pub const MAX_CONVOS: usize = 10_000;
/// Most rows of one replay, and most bytes of their content. A client that lacks more reads its conversations anew,
/// which is quicker.
const MAX_REPLAY: i64 = 10_000;
const MAX_REPLAY_BYTES: i64 = 4 * 1024 * 1024;

/// Events of this replica. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    store: Store,
    hub: Hub,
    notifier: Notifier,
    /// Slots at the database for streams that catch up.
    slots: Arc<Semaphore>,
    metrics: EventMetrics,
    keepalive: Duration,
    runtime: Handle,
}

/// An open stream. Dropping it removes it from the hub.
pub struct OpenStream {
    hub: Hub,
    pub(crate) subscriber: Arc<Subscriber>,
    /// Cursor at which it begins.
    pub(crate) from: Cursor,
    /// Time between two keepalives.
    pub(crate) keepalive: Duration,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.hub.remove(&self.subscriber);
    }
}

/// Settings of the events of one replica.
pub struct EventConfig {
    /// For the connection that listens, where there is no Redis.
    pub database: tokio_postgres::Config,
    /// A pooler is in front of the database, so LISTEN does not work.
    pub pooler: bool,
    /// Size of the pool; streams that catch up use a quarter of it.
    pub max_connections: usize,
    /// Most events that wait for one client.
    pub buffer: usize,
    /// HTTP connections that the replica accepts.
    pub http_connections: usize,
    /// Time between two keepalives of a stream.
    pub keepalive: Duration,
    /// Runtime that outlives requests.
    pub runtime: Handle,
}

impl Events {
    /// Starts all parts but the tail, which needs the schema ([`Events::start_tail`]).
    pub fn new(
        store: &Store,
        redis: Option<&Redis>,
        config: EventConfig,
        metrics: EventMetrics,
        background: &Background,
    ) -> Self {
        let EventConfig { database, pooler, max_connections, buffer, http_connections, keepalive, runtime } = config;
        let hub = Hub::new(buffer, http_connections, metrics.clone());
        let notifier = Notifier::start(store, &hub, redis, database, pooler, metrics.clone(), background);
        background.start(&tasks::STREAM_HEARTBEAT, keep_alive(hub.clone(), keepalive));
        // A quarter of the connections. The rest is left to writes and the tail when many clients resume at once.
        let slots = Arc::new(Semaphore::new((max_connections / 4).max(1)));
        Self { store: store.clone(), hub, notifier, slots, metrics, keepalive, runtime }
    }

    /// Starts the tail.
    pub fn start_tail(&self, background: &Background) {
        background.start(&tasks::EVENT_TAIL, tail::run(self.store.clone(), self.hub.clone(), self.metrics.clone()));
    }

    /// Opens a stream of all conversations of `did`, or of one: from now on, or from a cursor. If the caller has its
    /// maximum of streams, its oldest one ends. `key` proved the caller; the stream ends when the key no longer does
    /// ([`identities`]). Reading what the caller has missed is charged to its account.
    ///
    /// Errors: `ConvoNotFound` and `NotMember` for the one conversation, `FutureCursor`, `OutdatedCursor`,
    /// `TooManyConversations`, `RateLimitExceeded` if too many streams of the caller are being opened or closed,
    /// `Overloaded`.
    pub async fn open(
        &self,
        did: &Did,
        key: Option<&PublicKey>,
        only: Option<&ConvoId>,
        cursor: Option<Sealed>,
        account: Account,
    ) -> Result<OpenStream, Error> {
        // Every row is held for the stream from here on. Its cursor is not known before the tail has read.
        let nowhere = Cursor::nowhere();
        let subscriber = self.hub.register(did, key, only, nowhere.clone())?;
        let mut open = OpenStream { hub: self.hub.clone(), subscriber, from: nowhere, keepalive: self.keepalive };
        let opening = self.hub.after(self.hub.current_pass());
        if tokio::time::timeout(TAIL_TIMEOUT, opening).await.is_err() {
            return Err(Code::Overloaded.because("the database could not be read in time; reconnect"));
        }
        let Ok(slot) = tokio::time::timeout(SLOT_TIMEOUT, self.slots.acquire()).await else {
            return Err(Code::Overloaded.because("too many streams are catching up; reconnect"));
        };
        let reader = self.store.reader().await?;
        let present = reader.present(cursor.as_ref().map(|cursor| cursor.incarnation)).await?;
        let cursor = match cursor {
            Some(cursor) => Some(begin(cursor, &present, &reader).await?),
            None => None,
        };
        let seen = cursor.as_ref().map(Cursor::seen);
        if let Some(convo) = only {
            members::membership(&reader, convo, did).await?;
        }
        let attachments = reader.attachments(did, only, seen, MAX_CONVOS as i64 + 1).await?;
        if attachments.len() > MAX_CONVOS {
            let message =
                format!("you are in more than {MAX_CONVOS} conversations; subscribe to some of them by convoId");
            return Err(Code::TooManyConversations.because(message));
        }
        let replayed = match seen {
            Some(seen) => {
                let replay = reader.replay(did, only, seen, (MAX_REPLAY, MAX_REPLAY_BYTES)).await?;
                Some(replay.ok_or_else(outdated)?)
            }
            None => None,
        };
        // Rows that were deleted before they could be read have moved the horizon. Rows of two incarnations belong to
        // neither.
        let after = reader.present(None).await?;
        if after.moment.incarnation != present.moment.incarnation {
            return Err(Code::Overloaded.because("the database has just restarted; reconnect"));
        }
        if let Some(seen) = seen {
            check(seen, after.horizon, &after.moment)?;
        }
        drop((reader, slot));
        // Without a cursor, existing rows are not sent.
        let known = cursor.is_none().then(|| present.moment.seen().clone());
        open.from = cursor.unwrap_or_else(|| Cursor::from(&present.moment));
        self.hub.attach(&open.subscriber, &attachments, open.from.clone(), replayed);
        let catching_up = catch_up::run(
            self.store.clone(),
            self.hub.clone(),
            open.subscriber.clone(),
            self.slots.clone(),
            known,
            account,
        );
        self.runtime.spawn(catching_up);
        Ok(open)
    }

    /// Publishes a typing indicator to the other members. The caller has checked that its sender is a member.
    pub fn typing(&self, typing: Typing) {
        self.notifier.typing(&typing, &self.runtime);
        self.hub.queue_typing(typing);
    }

    /// Notifications between the replicas.
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Returns whether the tail has read to the present lately.
    pub fn are_current(&self) -> bool {
        self.hub.is_current(Instant::now())
    }

    /// Records the state of the tail and of the buffers in the metrics.
    pub fn measure(&self) {
        self.hub.measure(Instant::now());
    }

    /// Number of open streams.
    pub fn streams(&self) -> usize {
        self.hub.open()
    }

    /// Ends every stream, and refuses new ones. Each client is sent the time after which it should come back.
    pub fn drain(&self) {
        self.hub.end_all(Info::Draining, true);
    }

    /// Ends the streams of these callers.
    pub fn suspend(&self, dids: &HashSet<String>) {
        self.hub.end(Info::Suspended, |subscriber| dids.contains(subscriber.did.as_str()));
    }

    /// Ends streams whose keys no longer speak for their callers, among those that are due for the check at `now`
    /// ([`identities`]).
    pub async fn check_identities(&self, authenticator: &Authenticator, now: Instant) {
        identities::check(&self.hub, authenticator, now).await;
    }

    /// Runs that check until `stop`.
    pub async fn watch_identities(self, authenticator: Arc<Authenticator>, stop: watch::Receiver<bool>) {
        identities::watch(&self.hub, &authenticator, stop).await;
    }
}

/// Returns the cursor at which a resumed stream begins: what it has surely been sent, in the numbering of the present
/// incarnation.
async fn begin(cursor: Sealed, present: &Present, reader: &Reader) -> Result<Cursor, Error> {
    let lost = || {
        let message = "the cursor belongs to another database, or to a time that this one has lost; subscribe without it, then read your conversations";
        Code::FutureCursor.because(message)
    };
    let opened = present.then.as_ref().and_then(|then| Some((then, cursor.open(then)?)));
    let (then, seen) = opened.ok_or_else(lost)?;
    if then.era != present.moment.seen().era {
        let message = "the database was restored since the cursor; subscribe without it, then read your conversations";
        return Err(Code::OutdatedCursor.because(message));
    }
    let seen = match then.floor {
        Some(floor) if seen.newest >= floor || !reader.is_kept(&seen).await? => return Err(lost()),
        Some(floor) => seen.below(floor),
        None => seen,
    };
    check(&seen, present.horizon, &present.moment)?;
    Ok(cursor.at(seen, then))
}

/// Refuses a cursor that may lack a deleted row.
fn check(seen: &Seen, horizon: i64, now: &Moment) -> Result<(), Error> {
    if seen.lacks_below(horizon, now.seen()) { Err(outdated()) } else { Ok(()) }
}

fn outdated() -> Error {
    Code::OutdatedCursor
        .because("there are too many events since the cursor; subscribe without it, then read your conversations")
}

/// Sends the keepalives of all streams, a part of them at a time.
async fn keep_alive(hub: Hub, interval: Duration) {
    let mut clock = tokio::time::interval(interval / KEEPALIVE_PARTS as u32);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for part in (0..KEEPALIVE_PARTS).cycle() {
        clock.tick().await;
        hub.keep_alive(part, KEEPALIVE_PARTS, Instant::now());
    }
}
