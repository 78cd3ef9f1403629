//! Events: from a committed row to every client that may see it. `hint -> tail -> hub -> stream -> framing`.
//!
//! A row that was committed is the only way in which an event can exist; typing indicators, which are of no consequence, are the one
//! exception. A log entry is its own event. What is no entry (who joined, who left, what was read) is a row of `event_stream`,
//! written in the transaction that did it. Handlers never speak to the hub.
//!
//! - [`hints`] say that looking is worth while: after a commit, to all replicas, without promise.
//! - `tail` is the one reader of this replica. It looks when it is told to, and every second.
//! - [`hub`] knows who listens to what, and hands out what the tail has read.
//! - [`subscriber`] is one open stream: its place, and a bounded buffer. It knows no framing.
//! - [`identities`] ends streams whose callers are not who they were.
//! - `catch_up` brings a stream from its cursor to where the tail is.
//! - [`crate::streaming`] writes a stream as HTTP.
//!
//! # What may break, and why it cannot
//!
//! **A late committer is passed over** (P5). A number that was drawn before COMMIT is not in the order of commits: "greater than the
//! last I saw" misses the transaction that drew early and committed late. So the tail's place is no number but a snapshot of
//! PostgreSQL: a row is new if this snapshot sees it and the last one did not, which is so exactly if its transaction is in the
//! last one's list of those that were running, or not below its end. `events/news` asks for both in the statement whose snapshot is
//! the next place. Hence every row that is ever committed is in exactly one pass, and a transaction that stays open for
//! hours delays nobody.
//!
//! **A hint is lost, or Redis** (P5, P11). Hints decide when a pass is made and nothing else; one is made every second anyway.
//!
//! **Entries arrive out of order or with a hole** (P5). A pass says which conversations have something new; what is handed out is
//! read from the log by `seq`, ascending, from the last one that was handed out. Whoever writes entry n+1 has waited for the
//! conversation's row until entry n was committed, so a snapshot that sees n+1 sees n. `prevSeq` lets clients check.
//!
//! **A client comes back and has missed something** (P5). The cursor that goes out with an event is a snapshot S of the tail, all of
//! whose rows had been handed to this stream before. What may be missing was written by transactions that S did not see the end of: those
//! that ran, and those from its end on. That is what is replayed. For the rows of `event_stream` these are ranges of an index. For
//! the log, the first entry to send again follows the last one, by seq, that S saw: as S saw it, it saw all before it. Where more ran
//! than a cursor can name, it ends before the first that it does not name, as if S had been taken then. So a transaction that
//! stays open anywhere in the cluster makes no replay longer. What is sent twice is known: entries by `(convoId, seq)`, and who joined,
//! left or was removed by `eventId`; it may be from before the client began. The cursor is from one moment and for all conversations, also
//! those that the client did not know of.
//!
//! **Somebody is removed and has not had everything from before** (P5), nor can read it from the log any more. Who comes back with a
//! cursor is sent the rest of the membership before its removal (`catch_up`), however often it joined and was removed meanwhile:
//! the rows of `event_stream` say where each membership began and ended, which the roster forgets. Who listens has had the rest when it is
//! told of the removal, since a pass reads entries before rows. Only where a membership began and ended, or gave way to another, between
//! two readings can entries be missing then; the stream is cut before any cursor says that it has had them, and comes back.
//!
//! **Something falls between replay and live** (P5). Before anything is read for a stream it is registered, and waits for a pass that
//! began afterwards, so that every later pass reports to it. Only then is it read where its conversations begin, and it is
//! attached to them. Until one more pass has gone by, rows are held for it; by then all that were committed before the reading have been
//! held, and they are sent before anything else. Entries it reads itself, to within a page of the tail. Then it *joins*: the
//! tail reads the missing ones in its next pass, for it and nobody else. Until that pass is over its events carry the cursor that
//! it came with, because the tail's would claim entries that are still to come.
//!
//! **A read position comes before what was read.** A stream that catches up is sent rows first, then entries. Positions are kept back until
//! it is live, when every entry that its last pass saw has been sent: whoever moved a position had read the entry.
//!
//! **Somebody sees what is none of its business** (P7). Nothing is handed out on the word of memory. Whenever entries are read, it is
//! read with them which version of the roster they belong to, and after them what those who listen are to the conversation, unless that was
//! read at this very version, which moves with every join and every end. An entry goes to a listener only if it lies after its
//! join and not after its end. The membership was read later, so one that ended in between says where it ended. A listener is attached
//! by one membership, known by its date; after leaving and joining again it is attached anew. Rows go to those who are attached when
//! they come, and are taken in the order of a conversation's commits (`id` is drawn while the conversation is held). So a removal
//! detaches before anything that follows, and a joiner's first row is its own join; for a stream that was attached from what the
//! database said, held rows before its own join are dropped. Typing is handed out at the end of a pass that began after it came,
//! when every removal from before has been applied.
//!
//! **Something grows without bound** (P10). Streams are bounded per caller and per replica ([`hub`]) and in conversations; what waits for
//! one client is bounded in events (`SSE_BUFFER_SIZE`) and bytes, and what waits for all of them in bytes; who does not read is told, cut,
//! and loses nothing, since it resumes by its cursor. A client that catches up is read for only when it has read. A connection that takes
//! nothing at all is reset by the kernel ([`crate::server`]). Passes, pages and replays have limits; a tail that lost its place cuts all
//! streams, which resume.
//!
//! **A commit pays for it** (P10). Sending a message writes no row here and waits for nobody. NOTIFY has a connection and a task of its
//! own.
//!
//! **The database goes back in time**, by a crash, a failover or a restored backup: transaction ids come again. Then a new *incarnation*
//! begins, before anything is written (`store/incarnation`, which has the proof), and the tail, which sees in the statement of each pass
//! that its place is of an older one, cuts all streams. A cursor of an older incarnation is taken for what surely was before it, where
//! its numbers still mean the same, and is `OutdatedCursor` where they do not; one of an incarnation that nobody here knows, or
//! of who has read what the present one has lost, is `FutureCursor`. For that a cursor names the newest transaction of which this replica
//! had handed anything out, what goes with the cursor included. Where two transactions ended at once and only the one with the lower id is
//! lost, that does not show by the cursor, but by the ids of the entries that follow.
//!
//! **What was missed has been deleted** ([`crate::jobs`]). Deleted rows and entries move `event_horizon`, by trigger, and a cursor that
//! may lack something below it is `OutdatedCursor`. It is looked at after the replay was read, and again where a stream that catches up
//! finds a hole in a log: if the horizon has passed its cursor, the stream is cut, comes back and is told. A hole from before its cursor
//! is no matter.

mod catch_up;
pub mod cursor;
pub mod event;
pub mod hints;
pub mod hub;
pub mod identities;
mod metrics;
pub mod subscriber;
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
use hints::Hints;
use hub::Hub;
use subscriber::Subscriber;

pub use metrics::EventMetrics;
pub use tail::POLL;

/// Time between two keepalives of a stream. They keep proxies from closing an idle connection.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// How long a new stream waits for the tail.
const OPENING: Duration = Duration::from_secs(5);
/// How long it waits for its turn at the database after that.
const TURN: Duration = Duration::from_secs(3);
/// Most conversations of one stream.
pub const MAX_CONVOS: usize = 10_000;
/// Most rows that are replayed, and most bytes of what they say. Who has been away for more reads its conversations anew, which is
/// quicker.
const MAX_REPLAY: i64 = 10_000;
const MAX_REPLAY_BYTES: i64 = 4 * 1024 * 1024;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    store: Store,
    hub: Hub,
    hints: Hints,
    /// Streams that catch up take turns at the database.
    turns: Arc<Semaphore>,
    metrics: EventMetrics,
}

/// An open stream. Dropping it removes it from the hub.
pub struct OpenStream {
    hub: Hub,
    pub(crate) subscriber: Arc<Subscriber>,
    /// Cursor at which it begins.
    pub(crate) from: Cursor,
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
}

impl Events {
    /// Puts the parts together and starts them, except the tail, which needs the schema; see [`Events::start_tail`].
    pub fn new(
        store: &Store,
        redis: Option<&Redis>,
        config: EventConfig,
        metrics: EventMetrics,
        background: &Background,
    ) -> Self {
        let EventConfig { database, pooler, max_connections, buffer } = config;
        let hub = Hub::new(buffer, metrics.clone());
        let hints = Hints::start(store, &hub, redis, database, pooler, metrics.clone(), background);
        background.start(&tasks::STREAM_HEARTBEAT, keep_alive(hub.clone()));
        // A quarter of the connections, so that neither writes nor the tail wait for those who come back all at once.
        let turns = Arc::new(Semaphore::new((max_connections / 4).max(1)));
        Self { store: store.clone(), hub, hints, turns, metrics }
    }

    /// Starts the tail.
    pub fn start_tail(&self, background: &Background) {
        background.start(&tasks::EVENT_TAIL, tail::run(self.store.clone(), self.hub.clone(), self.metrics.clone()));
    }

    /// Opens a stream of all conversations of `did`, or of one: from now on, or from a cursor. Where the caller has as many as it may, its
    /// oldest one ends. `key` is the one that has proved the caller, and ends the stream when it ceases to ([`identities`]). What the
    /// caller has missed is read at the rate of its account.
    ///
    /// Errors: `ConvoNotFound` and `NotMember` for the one conversation, `FutureCursor`, `OutdatedCursor`, `TooManyConversations`,
    /// `RateLimitExceeded` where too many of one caller are being opened or closed, `Overloaded`.
    pub async fn open(
        &self,
        did: &Did,
        key: Option<&PublicKey>,
        only: Option<&ConvoId>,
        cursor: Option<Sealed>,
        account: Account,
    ) -> Result<OpenStream, Error> {
        // It has begun to miss things now; the true beginning is not known before the tail has looked.
        let nowhere = Cursor::nowhere();
        let subscriber = self.hub.register(did, key, only, nowhere.clone())?;
        let mut open = OpenStream { hub: self.hub.clone(), subscriber, from: nowhere };
        let opening = self.hub.after(self.hub.begun());
        if tokio::time::timeout(OPENING, opening).await.is_err() {
            return Err(Code::Overloaded.because("the database could not be read in time; reconnect"));
        }
        let Ok(turn) = tokio::time::timeout(TURN, self.turns.acquire()).await else {
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
        // What was deleted before it could be read has moved the horizon, and what was read in two incarnations belongs to neither.
        let after = reader.present(None).await?;
        if after.moment.incarnation != present.moment.incarnation {
            return Err(Code::Overloaded.because("the database has just restarted; reconnect"));
        }
        if let Some(seen) = seen {
            check(seen, after.horizon, &after.moment)?;
        }
        drop((reader, turn));
        // Without a cursor, what was there already is not told.
        let known = cursor.is_none().then(|| present.moment.seen().clone());
        open.from = cursor.unwrap_or_else(|| Cursor::from(&present.moment));
        self.hub.attach(&open.subscriber, &attachments, open.from.clone(), replayed);
        let catching_up = catch_up::run(
            self.store.clone(),
            self.hub.clone(),
            open.subscriber.clone(),
            self.turns.clone(),
            known,
            account,
        );
        self.store.runtime().spawn(catching_up);
        Ok(open)
    }

    /// Tells the other members that somebody types. Whoever calls this knows that it is a member.
    pub fn typing(&self, typing: Typing) {
        self.hints.typing(&typing, self.runtime());
        self.hub.type_in(typing);
    }

    /// How replicas tell each other, and whether this one is told.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Whether what happens reaches this replica.
    pub fn are_current(&self) -> bool {
        self.hub.is_current(Instant::now())
    }

    /// How many streams are open.
    pub fn streams(&self) -> usize {
        self.hub.open()
    }

    /// Sends every stream away, each told when to come back, and takes no other in.
    pub fn drain(&self) {
        self.hub.end_all(Info::Draining, true);
    }

    /// Ends the streams of these people.
    pub fn suspend(&self, dids: &HashSet<String>) {
        self.hub.end(Info::Suspended, |subscriber| dids.contains(subscriber.did.as_str()));
    }

    /// Ends streams whose callers are not who they were, as far as that is to be looked at by `now`. See [`identities`].
    pub async fn check_identities(&self, authenticator: &Authenticator, now: Instant) {
        identities::check(&self.hub, authenticator, now).await;
    }

    /// Does so until told to stop.
    pub async fn watch_identities(self, authenticator: Arc<Authenticator>, stop: watch::Receiver<bool>) {
        identities::watch(&self.hub, &authenticator, stop).await;
    }

    fn runtime(&self) -> &Handle {
        self.store.runtime()
    }
}

/// Where a stream begins that comes with this cursor: at what it surely has had, in the numbering of the present.
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

/// Refuses to begin where something that was deleted may be missing.
fn check(seen: &Seen, horizon: i64, now: &Moment) -> Result<(), Error> {
    if seen.lacks_below(horizon, now.seen()) { Err(outdated()) } else { Ok(()) }
}

fn outdated() -> Error {
    Code::OutdatedCursor
        .because("there are too many events since the cursor; subscribe without it, then read your conversations")
}

/// Sends the keepalives of all streams. Each second is the turn of some of them.
async fn keep_alive(hub: Hub) {
    let mut clock = tokio::time::interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let turns = KEEPALIVE_INTERVAL.as_secs();
    for turn in (0..turns).cycle() {
        clock.tick().await;
        hub.keep_alive(turn, turns, Instant::now());
    }
}
