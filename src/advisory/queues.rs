//! The queues of commands before the conversations' locks, inside one replica: in order of arrival within a conversation, fair between
//! conversations, bounded in length and time.
//!
//! Waiting here costs no database connection, so one hot conversation cannot use up the pool. It also makes batches without a timer:
//! messages, or commits, that arrived while the last transaction ran go into the next one. A conversation is leased to one worker at a
//! time; commands that a batch could not run go back to the front of its queue.
//!
//! A conversation that other replicas write too is remembered as contended for a moment. As long as it is, its commands go to the workers
//! that wait for locks, as batches of this conversation alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use crate::batching::{CONTENDED_FOR, MAX_BATCH, MAX_BATCH_BYTES, MAX_WAIT, Queued, no_room, waited_too_long};
use crate::ids::ConvoId;
use crate::store::BatchKind;

use super::metrics::QueueMetrics;

/// Most commands that wait for one conversation.
const MAX_QUEUE: usize = 256;
/// Most commands that wait for all conversations together.
const MAX_QUEUED: usize = 20_000;
/// Most conversations that are remembered as contended. Any other is found contended anew by each batch, which costs it a turn.
const MAX_CONTENDED: usize = 4_096;

/// Worker that a conversation is ready for: that of a kind of batches, or one of those that wait for its lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Worker {
    Batches(BatchKind),
    Waits,
}

impl Worker {
    const COUNT: usize = 3;

    fn index(self) -> usize {
        match self {
            Worker::Batches(BatchKind::Messages) => 0,
            Worker::Batches(BatchKind::Commits) => 1,
            Worker::Waits => 2,
        }
    }
}

/// Contention that a worker met at a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// No other replica wrote it.
    Free,
    /// Another replica wrote it, so nothing was done. Once may be chance, and it is tried again.
    Taken,
    /// Another replica wrote it, and was waited for.
    Waited,
}

/// The queues of all conversations that commands wait for. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queues(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// A conversation has become ready, by its worker.
    ready: [Notify; Worker::COUNT],
    metrics: QueueMetrics,
}

struct State {
    queues: HashMap<ConvoId, Queue>,
    /// Conversations that are not leased and have commands, by their worker, in the order in which they became ready.
    ready: [VecDeque<ConvoId>; Worker::COUNT],
    waiting: usize,
    contended: HashMap<ConvoId, Contention>,
}

/// Another replica was found to write a conversation.
struct Contention {
    since: Instant,
    /// More than once.
    again: bool,
}

impl State {
    /// Returns whether commands of the conversation had better wait for its lock.
    fn is_contended(&self, convo: &ConvoId) -> bool {
        let known = self.contended.get(convo);
        known.is_some_and(|contention| contention.again && contention.since.elapsed() < CONTENDED_FOR)
    }

    fn note(&mut self, convo: &ConvoId, found: Found) {
        if found == Found::Free {
            return;
        }
        if self.contended.len() >= MAX_CONTENDED {
            self.contended.retain(|_, contention| contention.since.elapsed() < CONTENDED_FOR);
        }
        let again = match self.contended.get(convo) {
            Some(known) if known.since.elapsed() < CONTENDED_FOR => true,
            None if self.contended.len() >= MAX_CONTENDED => return,
            _ => found == Found::Waited,
        };
        self.contended.insert(convo.clone(), Contention { since: Instant::now(), again });
    }
}

struct Queue {
    commands: VecDeque<Box<dyn Queued>>,
    /// A worker has taken commands of this conversation and not returned it.
    leased: bool,
}

/// A conversation that is leased to a worker, with the commands that it runs.
pub(super) type Batch = Vec<(Lease, Vec<Box<dyn Queued>>)>;

impl Queues {
    pub fn new(metrics: QueueMetrics) -> Self {
        let state = State { queues: HashMap::new(), ready: Default::default(), waiting: 0, contended: HashMap::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), ready: Default::default(), metrics }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a command, or refuses it with `Overloaded` when there is no room.
    pub fn push(&self, command: Box<dyn Queued>) {
        let convo = command.convo().clone();
        let mut state = self.state();
        let refusal = if state.waiting >= MAX_QUEUED {
            Some(no_room("this replica"))
        } else if state.queues.get(&convo).is_some_and(|queue| queue.commands.len() >= MAX_QUEUE) {
            Some(no_room("this conversation"))
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(state);
            self.0.metrics.queue_full();
            command.refuse(error);
            return;
        }
        state.waiting += 1;
        let new = || Queue { commands: VecDeque::new(), leased: false };
        let queue = state.queues.entry(convo.clone()).or_insert_with(new);
        queue.commands.push_back(command);
        if !queue.leased && queue.commands.len() == 1 {
            self.make_ready(&mut state, &convo);
        }
    }

    /// Puts a conversation that is not leased where its worker finds it.
    fn make_ready(&self, state: &mut State, convo: &ConvoId) {
        let Some(first) = state.queues.get(convo).and_then(|queue| queue.commands.front()) else { return };
        let worker = match first.kind() {
            Some(kind) if !state.is_contended(convo) => Worker::Batches(kind),
            _ => Worker::Waits,
        };
        state.ready[worker.index()].push_back(convo.clone());
        self.0.ready[worker.index()].notify_one();
    }

    /// Returns the next commands for a worker, by conversation and in order; waits for some. Their conversations are leased to the caller,
    /// also those of which it gets nothing because everything had waited for too long.
    ///
    /// A conversation gets the whole batch if it is alone, and its share if others are ready too. Workers that wait for locks get one
    /// conversation: a command that runs alone, or, if it is contended, a batch.
    pub async fn next(&self, worker: Worker) -> Batch {
        loop {
            let batch = self.take(worker);
            if !batch.is_empty() {
                return batch;
            }
            self.0.ready[worker.index()].notified().await;
        }
    }

    fn take(&self, worker: Worker) -> Batch {
        let mut locked = self.state();
        let state = &mut *locked;
        let ready = &mut state.ready[worker.index()];
        let (mut room, share) = match worker {
            Worker::Batches(_) => (MAX_BATCH, (MAX_BATCH / ready.len().max(1)).max(1)),
            Worker::Waits => (MAX_BATCH, MAX_BATCH),
        };
        let (mut batch, mut bytes, mut late) = (Vec::new(), 0, Vec::new());
        while room > 0
            && (worker != Worker::Waits || batch.is_empty())
            && bytes < MAX_BATCH_BYTES
            && let Some(convo) = ready.pop_front()
        {
            let Some(queue) = state.queues.get_mut(&convo) else { continue };
            queue.leased = true;
            let kind = queue.commands.front().and_then(|command| command.kind());
            let share = if kind.is_some() { share } else { 1 };
            let commands = self.draw(queue, kind, share.min(room), &mut bytes, &mut late);
            room -= commands.len();
            state.waiting -= commands.len();
            let lease = Lease { queues: self.clone(), convo, unfinished: Vec::new(), found: Found::Free };
            batch.push((lease, commands));
        }
        state.waiting -= late.len();
        if !ready.is_empty() {
            self.0.ready[worker.index()].notify_one();
        }
        drop(locked);
        late.into_iter().for_each(|command| command.refuse(waited_too_long()));
        batch
    }

    /// Takes at most so many commands of a kind from the front of a queue and adds up their bytes. Those that have waited for too long go
    /// to `late`.
    fn draw(
        &self,
        queue: &mut Queue,
        kind: Option<BatchKind>,
        most: usize,
        bytes: &mut usize,
        late: &mut Vec<Box<dyn Queued>>,
    ) -> Vec<Box<dyn Queued>> {
        let mut commands = Vec::new();
        while commands.len() < most
            && *bytes < MAX_BATCH_BYTES
            && let Some(command) = queue.commands.pop_front_if(|command| command.kind() == kind)
        {
            let waited = command.since().elapsed();
            self.0.metrics.queued(waited);
            if waited <= MAX_WAIT {
                *bytes += command.bytes();
                commands.push(command);
            } else {
                late.push(command);
            }
        }
        commands
    }
}

/// The lease of a conversation. It is returned when this value is dropped, also by a panic.
pub(super) struct Lease {
    queues: Queues,
    pub convo: ConvoId,
    /// Commands to queue again, before everything that arrived meanwhile.
    pub unfinished: Vec<Box<dyn Queued>>,
    pub found: Found,
}

impl Lease {
    /// Returns a function that takes commands of a kind that have arrived for the conversation, for a batch of so many commands and bytes.
    pub fn arrivals(&self, kind: BatchKind) -> impl Fn(usize, usize) -> Vec<Box<dyn Queued>> + Send + Sync + 'static {
        let (queues, convo) = (self.queues.clone(), self.convo.clone());
        move |size, mut bytes| {
            let mut late = Vec::new();
            let mut state = queues.state();
            let Some(queue) = state.queues.get_mut(&convo) else { return Vec::new() };
            let commands = queues.draw(queue, Some(kind), MAX_BATCH.saturating_sub(size), &mut bytes, &mut late);
            state.waiting -= commands.len() + late.len();
            drop(state);
            late.into_iter().for_each(|command| command.refuse(waited_too_long()));
            commands
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let unfinished = std::mem::take(&mut self.unfinished);
        let mut state = self.queues.state();
        state.note(&self.convo, self.found);
        state.waiting += unfinished.len();
        let Some(queue) = state.queues.get_mut(&self.convo) else { return };
        queue.leased = false;
        for command in unfinished.into_iter().rev() {
            queue.commands.push_front(command);
        }
        if queue.commands.is_empty() {
            state.queues.remove(&self.convo);
        } else {
            self.queues.make_ready(&mut state, &self.convo);
        }
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
