//! The queues before the conversations' locks, inside one replica: in order of arrival within a conversation, fair between
//! conversations, bounded in length and time.
//!
//! Waiting here costs no database connection, so one hot conversation cannot use up the pool. And it makes batches without a
//! timer: messages that arrived while the last transaction ran are taken together into the next. A conversation is in the
//! hands of one worker at a time; what a batch could not do goes back to the front of its queue, to be done alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;

/// Most requests that wait for one conversation.
pub const MOST_WAITING: usize = 256;
/// From how many on a queue is only open to members.
pub const CROWDED: usize = MOST_WAITING / 4;
/// Most requests that wait for all conversations together.
pub const MOST_WAITING_IN_ALL: usize = 20_000;
/// How long one waits before it is answered with `Overloaded` and never begun.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Most messages in one transaction.
pub const BATCH: usize = 64;
/// From how many bytes on a transaction gets no more messages.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// One request in a queue: a message, which may share a transaction, or something that is done alone.
pub trait Job: Send + 'static {
    /// Whether it may share a transaction with others of its kind.
    fn shares(&self) -> bool;
    /// How many bytes it would add to a shared transaction.
    fn bytes(&self) -> usize {
        0
    }
    /// Answers it without having begun it.
    fn refuse(self, error: Error);
}

/// The queues of all conversations that somebody waits for. Cheap to clone.
pub struct Queues<J>(Arc<Inner<J>>);

impl<J> Clone for Queues<J> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<J> {
    state: Mutex<State<J>>,
    /// Somebody is ready to share a transaction; to be done alone.
    sharing: Notify,
    alone: Notify,
    metrics: Metrics,
}

struct State<J> {
    queues: HashMap<ConvoId, Queue<J>>,
    /// Conversations in nobody's hands, by what their first request needs, in the order in which they became ready.
    sharing: VecDeque<ConvoId>,
    alone: VecDeque<ConvoId>,
    waiting: usize,
}

struct Queue<J> {
    jobs: VecDeque<(Instant, J)>,
    /// A worker has taken requests of this conversation and not given it back.
    taken: bool,
}

fn full(what: &str) -> Error {
    Code::Overloaded.because(format!("too many requests are waiting for {what}; nothing was changed"))
}

impl<J: Job> Queues<J> {
    pub fn new(metrics: Metrics) -> Self {
        let state = State { queues: HashMap::new(), sharing: VecDeque::new(), alone: VecDeque::new(), waiting: 0 };
        Self(Arc::new(Inner { state: Mutex::new(state), sharing: Notify::new(), alone: Notify::new(), metrics }))
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether at least [`CROWDED`] requests wait for the conversation, or half of what there is room for in all.
    pub fn is_crowded(&self, convo: &ConvoId) -> bool {
        let state = self.state();
        state.waiting >= MOST_WAITING_IN_ALL / 2
            || state.queues.get(convo).is_some_and(|queue| queue.jobs.len() >= CROWDED)
    }

    /// Queues a request, or answers it with `Overloaded` when there is no room.
    pub fn push(&self, convo: &ConvoId, job: J) {
        let mut state = self.state();
        let refusal = if state.waiting >= MOST_WAITING_IN_ALL {
            Some(full("this replica"))
        } else if state.queues.get(convo).is_some_and(|queue| queue.jobs.len() >= MOST_WAITING) {
            Some(full("this conversation"))
        } else {
            None
        };
        if let Some(error) = refusal {
            drop(state);
            self.0.metrics.queue_full();
            job.refuse(error);
            return;
        }
        state.waiting += 1;
        let queue = state.queues.entry(convo.clone()).or_insert_with(|| Queue { jobs: VecDeque::new(), taken: false });
        queue.jobs.push_back((Instant::now(), job));
        if !queue.taken && queue.jobs.len() == 1 {
            self.make_ready(&mut state, convo);
        }
    }

    /// Puts a conversation that nobody has in hand where a worker finds it.
    fn make_ready(&self, state: &mut State<J>, convo: &ConvoId) {
        let Some((_, first)) = state.queues.get(convo).and_then(|queue| queue.jobs.front()) else { return };
        if first.shares() {
            state.sharing.push_back(convo.clone());
            self.0.sharing.notify_one();
        } else {
            state.alone.push_back(convo.clone());
            self.0.alone.notify_one();
        }
    }

    /// The next request that is done alone; waits for one. Its conversation is in the caller's hands until `give_back`.
    pub async fn next_alone(&self) -> (ConvoId, J) {
        loop {
            if let Some(next) = self.take_alone() {
                return next;
            }
            self.0.alone.notified().await;
        }
    }

    fn take_alone(&self) -> Option<(ConvoId, J)> {
        loop {
            let mut state = self.state();
            let convo = state.alone.pop_front()?;
            let queue = state.queues.get_mut(&convo)?;
            queue.taken = true;
            let (since, job) = queue.jobs.pop_front()?;
            state.waiting -= 1;
            if !state.alone.is_empty() {
                self.0.alone.notify_one();
            }
            drop(state);
            self.0.metrics.queued(since.elapsed());
            if since.elapsed() <= LONGEST_WAIT {
                return Some((convo, job));
            }
            job.refuse(waited());
            self.give_back(&convo, Vec::new());
        }
    }

    /// The next messages that share a transaction, by conversation and in order; waits for some. A conversation gets the
    /// whole batch if it is alone, and its share of it if others are ready too.
    pub async fn next_batch(&self) -> Vec<(ConvoId, Vec<J>)> {
        loop {
            let batch = self.take_batch();
            if !batch.is_empty() {
                return batch;
            }
            self.0.sharing.notified().await;
        }
    }

    fn take_batch(&self) -> Vec<(ConvoId, Vec<J>)> {
        let mut state = self.state();
        let share = (BATCH / state.sharing.len().max(1)).max(1);
        let (mut batch, mut room, mut bytes, mut late) = (Vec::new(), BATCH, 0, Vec::new());
        while room > 0
            && bytes < BATCH_BYTES
            && let Some(convo) = state.sharing.pop_front()
        {
            let Some(queue) = state.queues.get_mut(&convo) else { continue };
            queue.taken = true;
            let mut jobs = Vec::new();
            while jobs.len() < share.min(room)
                && bytes < BATCH_BYTES
                && let Some((since, job)) = queue.jobs.pop_front_if(|(_, job)| job.shares())
            {
                self.0.metrics.queued(since.elapsed());
                if since.elapsed() <= LONGEST_WAIT {
                    bytes += job.bytes();
                    jobs.push(job);
                } else {
                    late.push(job);
                }
            }
            room -= jobs.len();
            state.waiting -= jobs.len();
            batch.push((convo, jobs));
        }
        state.waiting -= late.len();
        if !state.sharing.is_empty() {
            self.0.sharing.notify_one();
        }
        drop(state);
        late.into_iter().for_each(|job| job.refuse(waited()));
        batch
    }

    /// Gives a conversation back, with what could not be done; that comes before everything that arrived meanwhile.
    pub fn give_back(&self, convo: &ConvoId, undone: Vec<J>) {
        let mut state = self.state();
        state.waiting += undone.len();
        let Some(queue) = state.queues.get_mut(convo) else { return };
        queue.taken = false;
        for job in undone.into_iter().rev() {
            queue.jobs.push_front((Instant::now(), job));
        }
        if queue.jobs.is_empty() {
            state.queues.remove(convo);
        } else {
            self.make_ready(&mut state, convo);
        }
    }
}

fn waited() -> Error {
    Code::Overloaded.because("waited too long for other writers of this conversation; nothing was changed")
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
