//! The registry of actors: starts them, finds them, ends them.
//!
//! Everything that decides whether an actor lives happens under one mutex, sending included. So there are never two actors
//! for one conversation in a process, and no message is ever sent to one that has decided to stop.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc};

use crate::batching::{MAX_BATCH, MAX_BATCH_BYTES, Queued, no_room};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::Store;

use super::conversation::Conversation;
use super::metrics::{ActorMetrics, Stop};

/// Limits of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most actors at a time. The one that has been idle for longest makes room.
    pub actors: usize,
    /// Most messages that wait in one mailbox, beside those that are running.
    pub mailbox: usize,
    /// Time without work after which an actor stops.
    pub idle: Duration,
}

impl Limits {
    /// Limits of a server whose actors stop after `idle`.
    pub fn with_idle(idle: Duration) -> Self {
        Self { actors: 10_000, mailbox: 256, idle }
    }
}

/// Most mailboxes that are exported with their conversation's name.
const MAX_DEPTHS_EXPORTED: usize = 5;

/// The actors of this process. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Store,
    metrics: ActorMetrics,
    limits: Limits,
    /// Runtime of the actors, which outlives requests.
    runtime: Handle,
    state: Mutex<State>,
    /// Wakes [`Registry::shut_down`] when an actor has ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    actors: HashMap<ConvoId, Actor>,
    /// Conversations whose last actor failed; bounded by the number of actors, since only those can fail.
    failed: HashSet<ConvoId>,
    closed: bool,
}

/// An actor's mail.
type Mail = Box<dyn Queued>;

/// The outside of an actor.
struct Actor {
    mailbox: mpsc::Sender<Mail>,
    /// Messages sent and not yet answered.
    pending: Arc<AtomicUsize>,
    last_used: Instant,
}

impl Registry {
    pub fn new(store: Store, metrics: ActorMetrics, limits: Limits, runtime: Handle) -> Self {
        tracing::info!("Initializing ActorRegistry");
        let (state, ended) = (Mutex::default(), Notify::new());
        let registry = Self(Arc::new(Inner { store, metrics, limits, runtime, state, ended }));
        registry.0.metrics.max(limits.actors);
        let depths = Arc::downgrade(&registry.0);
        registry.0.metrics.export_depths(move || depths.upgrade().map_or_else(Vec::new, |inner| Self(inner).deepest()));
        tracing::info!(most_actors = limits.actors, idle_seconds = limits.idle.as_secs(), "Actor registry initialized");
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a message whose actor failed before it was answered.
    pub(crate) fn count_lost(&self) {
        self.0.metrics.message_lost();
    }

    /// Actors alive.
    pub fn active(&self) -> usize {
        self.state().actors.len()
    }

    /// Sends a command to its conversation's actor, or refuses it.
    pub(crate) fn send(&self, command: Box<dyn Queued>) {
        if let Err((command, error)) = self.deliver(command) {
            command.refuse(error);
        }
    }

    fn deliver(&self, command: Mail) -> Result<(), (Mail, Error)> {
        let convo = command.convo().clone();
        let mut state = self.state();
        if state.closed {
            return Err((command, Code::Overloaded.because("this replica is shutting down; nothing was changed")));
        }
        if !state.actors.contains_key(&convo) {
            if let Err(error) = self.make_room(&mut state) {
                return Err((command, error));
            }
            self.spawn(&mut state, &convo);
        }
        let actor = state.actors.get_mut(&convo).expect("it was there or has just been started");
        actor.last_used = Instant::now();
        // Counted here and not by the mailbox, since an actor takes several messages out of it at once.
        let is_full = actor.pending.fetch_add(1, Ordering::AcqRel) > self.0.limits.mailbox;
        let unsent = match is_full {
            true => Some(command),
            false => actor.mailbox.try_send(command).err().map(mpsc::error::TrySendError::into_inner),
        };
        let Some(command) = unsent else { return Ok(()) };
        actor.pending.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.mailbox_full();
        Err((command, no_room("this conversation")))
    }

    fn make_room(&self, state: &mut State) -> Result<(), Error> {
        if state.actors.len() < self.0.limits.actors {
            return Ok(());
        }
        let idle = state.actors.iter().filter(|(_, actor)| actor.pending.load(Ordering::Acquire) == 0);
        let Some(longest) = idle.min_by_key(|(_, actor)| actor.last_used).map(|(convo, _)| convo.clone()) else {
            return Err(Code::Overloaded.because("every actor is busy; nothing was changed"));
        };
        // Its mailbox closes with its entry, and nothing is pending in it, so it ends without having anything to do.
        state.actors.remove(&longest);
        self.0.metrics.stopped(Stop::Evicted);
        Ok(())
    }

    fn spawn(&self, state: &mut State, convo: &ConvoId) {
        let (mailbox, messages) = mpsc::channel(self.0.limits.mailbox + 1);
        let pending = Arc::new(AtomicUsize::new(0));
        let actor = Actor { mailbox: mailbox.clone(), pending: pending.clone(), last_used: Instant::now() };
        self.0.metrics.spawned(state.failed.remove(convo));
        state.actors.insert(convo.clone(), actor);
        let conversation = Conversation::new(convo.clone(), self.0.store.clone());
        let (registry, convo, weak) = (self.clone(), convo.clone(), mailbox.downgrade());
        drop(mailbox);
        self.0.runtime.spawn(async move {
            let life = registry.live(&convo, conversation, messages, &pending);
            if AssertUnwindSafe(life).catch_unwind().await.is_err() {
                // Its unanswered messages are gone with it, and nothing may wait for them.
                pending.store(0, Ordering::Release);
                registry.buried(&convo, &weak);
            }
            registry.0.ended.notify_waiters();
        });
    }

    /// Runs an actor until it is idle, evicted or shut down.
    async fn live(
        &self,
        convo: &ConvoId,
        mut conversation: Conversation,
        mut messages: mpsc::Receiver<Mail>,
        pending: &AtomicUsize,
    ) {
        // Taken from the mailbox for a batch, which it could not join.
        let mut next = None;
        loop {
            let received = match next.take() {
                Some(command) => Ok(Some(command)),
                None => tokio::time::timeout(self.0.limits.idle, messages.recv()).await,
            };
            let command = match received {
                Ok(Some(command)) => command,
                // The entry is gone: evicted or shut down, and counted there.
                Ok(None) => return,
                Err(_) if self.retire(convo, pending, Stop::Idle) => return,
                Err(_) => continue,
            };
            let (start, name) = (Instant::now(), command.name());
            let dealt_with = match command.kind() {
                None => {
                    conversation.run(command).await;
                    1
                }
                Some(kind) => {
                    let mut bytes = command.bytes();
                    let mut batch = vec![command];
                    while batch.len() < MAX_BATCH && bytes < MAX_BATCH_BYTES && next.is_none() {
                        match messages.try_recv() {
                            Ok(command) if command.kind() == Some(kind) => {
                                bytes += command.bytes();
                                batch.push(command);
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    let dealt_with = batch.len();
                    conversation.run_batch(kind, batch).await;
                    dealt_with
                }
            };
            for _ in 0..dealt_with {
                self.0.metrics.message(name, start.elapsed());
            }
            pending.fetch_sub(dealt_with, Ordering::AcqRel);
            // There is no such conversation, or the database is unreachable: it needs no actor.
            if !conversation.is_loaded() && self.retire(convo, pending, Stop::Idle) {
                return;
            }
        }
    }

    /// Removes the actor from the registry if no message is pending for it.
    fn retire(&self, convo: &ConvoId, pending: &AtomicUsize, why: Stop) -> bool {
        let mut state = self.state();
        if pending.load(Ordering::Acquire) > 0 || state.closed {
            return false;
        }
        state.actors.remove(convo);
        self.0.metrics.stopped(why);
        true
    }

    /// Removes a failed actor, unless it was evicted and another one has its place.
    fn buried(&self, convo: &ConvoId, mailbox: &mpsc::WeakSender<Mail>) {
        let mut state = self.state();
        let same = match (state.actors.get(convo), mailbox.upgrade()) {
            (Some(actor), Some(mailbox)) => actor.mailbox.same_channel(&mailbox),
            _ => false,
        };
        if same {
            state.actors.remove(convo);
            state.failed.insert(convo.clone());
            self.0.metrics.stopped(Stop::Failed);
            tracing::error!("a conversation's actor failed; the next request starts a new one");
        }
    }

    /// Refuses new messages and waits until those that were sent are answered.
    pub async fn shut_down(&self) {
        let pending: Vec<Arc<AtomicUsize>> = {
            let mut state = self.state();
            state.closed = true;
            state
                .actors
                .drain()
                .map(|(_, actor)| {
                    self.0.metrics.stopped(Stop::Shutdown);
                    actor.pending
                })
                .collect()
        };
        loop {
            let ended = self.0.ended.notified();
            if pending.iter().all(|pending| pending.load(Ordering::Acquire) == 0) {
                return;
            }
            ended.await;
        }
    }

    fn deepest(&self) -> Vec<(ConvoId, usize)> {
        let state = self.state();
        let mut depths: Vec<_> = state
            .actors
            .iter()
            .map(|(convo, actor)| (convo.clone(), actor.pending.load(Ordering::Acquire)))
            .filter(|(_, depth)| *depth > 0)
            .collect();
        drop(state);
        depths.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        depths.truncate(MAX_DEPTHS_EXPORTED);
        depths
    }
}
