//! Which conversation has an actor: starts them, finds them, ends them.
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
use tokio::sync::{Notify, mpsc, oneshot};

use crate::commands::{SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::serializer::queues::{BATCH, BATCH_BYTES};
use crate::serializer::sharing::Sending;
use crate::store::{Command, Store, unconfirmed};
use crate::timing::within_deadline;

use super::conversation::Conversation;
use super::mailbox::{Letter, Run};
use super::metrics::{ActorMetrics, Stop};

/// How much the registry may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Most actors alive at once; the one that has been idle for longest makes room.
    pub actors: usize,
    /// Most messages that wait in one mailbox, beside the one that is being dealt with.
    pub mailbox: usize,
    /// After how long without work an actor stops.
    pub idle: Duration,
}

impl Limits {
    /// The limits of a server, for actors that stop after `idle`.
    pub fn with_idle(idle: Duration) -> Self {
        Self { actors: 10_000, mailbox: 256, idle }
    }
}

/// How many mailboxes are exported with their conversation's name.
const DEEPEST: usize = 5;

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
    /// Tells [`Registry::shut_down`] that an actor ended.
    ended: Notify,
}

#[derive(Default)]
struct State {
    actors: HashMap<ConvoId, Actor>,
    /// Whose last actor failed; bounded by the number of actors, since only those can fail.
    failed: HashSet<ConvoId>,
    closed: bool,
}

/// The outside of an actor.
struct Actor {
    mailbox: mpsc::Sender<Letter>,
    /// Messages sent and not yet dealt with.
    pending: Arc<AtomicUsize>,
    last_used: Instant,
}

impl Registry {
    pub fn new(store: Store, metrics: ActorMetrics, limits: Limits, runtime: Handle) -> Self {
        tracing::info!("Initializing ActorRegistry");
        let (state, ended) = (Mutex::default(), Notify::new());
        let registry = Self(Arc::new(Inner { store, metrics, limits, runtime, state, ended }));
        let depths = Arc::downgrade(&registry.0);
        registry.0.metrics.export_depths(move || depths.upgrade().map_or_else(Vec::new, |inner| Self(inner).deepest()));
        tracing::info!(most_actors = limits.actors, idle_seconds = limits.idle.as_secs(), "Actor registry initialized");
        registry
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a command in its conversation's actor, and to the end even if the caller goes away.
    pub(crate) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let convo = command.convo().clone();
        let (message, answer) = Run::new(command);
        self.send(&convo, Letter::Message(Box::new(message)))?;
        self.answer(answer).await
    }

    /// The same for a message, which shares a transaction with those that wait beside it.
    pub(crate) async fn send_message(&self, command: SendMessage) -> Result<Sent, Error> {
        let convo = command.convo_id.clone();
        let (send, answer) = Sending::new(command);
        self.send(&convo, Letter::Send(send))?;
        self.answer(answer).await
    }

    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
        match within_deadline(Duration::ZERO, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                self.0.metrics.message_lost();
                let failed = "the conversation's actor failed; the next request starts a new one";
                Err(Code::InternalServerError.because(failed))
            }
            Err(_) => Err(unconfirmed()),
        }
    }

    /// Actors alive.
    pub fn active(&self) -> usize {
        self.state().actors.len()
    }

    pub(super) fn send(&self, convo: &ConvoId, letter: Letter) -> Result<(), Error> {
        let mut state = self.state();
        if state.closed {
            return Err(Code::Overloaded.because("this replica is shutting down; nothing was changed"));
        }
        if !state.actors.contains_key(convo) {
            self.make_room(&mut state)?;
            self.spawn(&mut state, convo);
        }
        let actor = state.actors.get_mut(convo).expect("it was there or has just been started");
        actor.last_used = Instant::now();
        // Counted here and not by the mailbox, since an actor takes several messages out of it at once.
        let is_full = actor.pending.fetch_add(1, Ordering::AcqRel) > self.0.limits.mailbox;
        if is_full || actor.mailbox.try_send(letter).is_err() {
            actor.pending.fetch_sub(1, Ordering::AcqRel);
            self.0.metrics.mailbox_full();
            return Err(
                Code::Overloaded.because("too many requests are waiting for this conversation; nothing was changed")
            );
        }
        Ok(())
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
                // What it had in hand is gone with it, and nobody shall wait for that.
                pending.store(0, Ordering::Release);
                registry.buried(&convo, &weak);
            }
            registry.0.ended.notify_waiters();
        });
    }

    /// An actor's life, from its first message to the one that never comes.
    async fn live(
        &self,
        convo: &ConvoId,
        mut conversation: Conversation,
        mut messages: mpsc::Receiver<Letter>,
        pending: &AtomicUsize,
    ) {
        // Taken from the mailbox to see whether it can share a transaction, and could not.
        let mut next = None;
        loop {
            let received = match next.take() {
                Some(letter) => Ok(Some(letter)),
                None => tokio::time::timeout(self.0.limits.idle, messages.recv()).await,
            };
            let letter = match received {
                Ok(Some(letter)) => letter,
                // The entry is gone: evicted or shut down, and counted there.
                Ok(None) => return,
                Err(_) if self.retire(convo, pending, Stop::Idle) => return,
                Err(_) => continue,
            };
            let start = Instant::now();
            let (name, dealt_with) = match letter {
                Letter::Message(message) => {
                    let name = message.name();
                    message.run(&mut conversation).await;
                    (name, 1)
                }
                Letter::Send(send) => {
                    let mut bytes = send.command.message.ciphertext.len();
                    let mut sends = vec![send];
                    while sends.len() < BATCH && bytes < BATCH_BYTES && next.is_none() {
                        match messages.try_recv() {
                            Ok(Letter::Send(send)) => {
                                bytes += send.command.message.ciphertext.len();
                                sends.push(send);
                            }
                            Ok(other) => next = Some(other),
                            Err(_) => break,
                        }
                    }
                    let dealt_with = sends.len();
                    conversation.send(sends).await;
                    (SendMessage::NAME, dealt_with)
                }
            };
            for _ in 0..dealt_with {
                self.0.metrics.message(name, start.elapsed());
            }
            pending.fetch_sub(dealt_with, Ordering::AcqRel);
            // There is no such conversation, or the database is away: not worth an actor.
            if !conversation.is_loaded() && self.retire(convo, pending, Stop::Idle) {
                return;
            }
        }
    }

    /// Takes the actor out of the registry if nothing is pending for it.
    fn retire(&self, convo: &ConvoId, pending: &AtomicUsize, why: Stop) -> bool {
        let mut state = self.state();
        if pending.load(Ordering::Acquire) > 0 || state.closed {
            return false;
        }
        state.actors.remove(convo);
        self.0.metrics.stopped(why);
        true
    }

    /// Takes a failed actor out, unless it had been evicted already and another one has its place.
    fn buried(&self, convo: &ConvoId, mailbox: &mpsc::WeakSender<Letter>) {
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

    /// Takes no more messages and waits until those that were sent are dealt with.
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
        depths.truncate(DEEPEST);
        depths
    }
}
