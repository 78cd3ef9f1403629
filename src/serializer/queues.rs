//! The queues before the conversations' locks, inside one replica: in order of arrival within a conversation, fair between
//! conversations, bounded in length and time.
//!
//! Waiting here costs no database connection, so one hot conversation cannot use up the pool. And it makes batches without a
//! timer: messages, or commits, that arrived while the last transaction ran are taken together into the next. A conversation is in the
//! hands of one worker at a time; what a shared transaction could not do goes back to the front of its queue.
//!
//! A conversation that other replicas write too is remembered as contended for a moment. As long as it is, its requests do not go into
//! batches with others, but to the workers that wait for locks, as batches of this conversation alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Code, Error};
use crate::ids::ConvoId;

use super::metrics::QueueMetrics;
use super::sharing::waited_too_long;

/// Most requests that wait for one conversation.
pub const MOST_WAITING: usize = 256;
/// Most requests that wait for all conversations together.
pub const MOST_WAITING_IN_ALL: usize = 20_000;
/// How long one waits before it is answered with `Overloaded` and never begun.
pub const LONGEST_WAIT: Duration = Duration::from_secs(6);
/// Most messages or commits in one transaction.
pub const BATCH: usize = 64;
/// From how many bytes on a transaction gets no more of them.
pub const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// How long a conversation counts as contended after somebody else was last found to have it. Much longer than a transaction takes.
pub const CONTENDED_FOR: Duration = Duration::from_millis(250);
/// Most conversations that are remembered as contended. Of the others every batch finds out anew, which costs it a turn.
const MOST_CONTENDED: usize = 4_096;

/// With what a request shares a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// With other messages.
    Messages,
    /// With other commits.
    Commits,
    /// With nothing, or, for what is contended, with its own conversation.
    Nobody,
}

/// How free a conversation was found that is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nobody else wrote it.
    Free,
    /// Somebody else had it, so that nothing was done. The first time that may be chance, and it is tried again.
    Taken,
    /// Somebody else had it, and it was waited for.
    Waited,
}

/// One request in a queue.
pub trait Job: Send + 'static {
    fn company(&self) -> Company;
    /// When it arrived.
    fn since(&self) -> Instant;
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
    /// A conversation has become ready, by what its first request needs.
    ready: [Notify; 3],
    metrics: QueueMetrics,
}

struct State<J> {
    queues: HashMap<ConvoId, Queue<J>>,
    /// Conversations in nobody's hands, by what their first request needs, in the order in which they became ready.
    ready: [VecDeque<ConvoId>; 3],
    waiting: usize,
    contended: HashMap<ConvoId, Contention>,
}

/// Somebody else was found to have a conversation.
struct Contention {
    since: Instant,
    /// More than once.
    again: bool,
}

impl<J> State<J> {
    /// Whether requests of the conversation had better wait for its lock.
    fn is_contended(&self, convo: &ConvoId) -> bool {
        let known = self.contended.get(convo);
        known.is_some_and(|contention| contention.again && contention.since.elapsed() < CONTENDED_FOR)
    }

    fn note(&mut self, convo: &ConvoId, found: Found) {
        if found == Found::Free {
            return;
        }
        if self.contended.len() >= MOST_CONTENDED {
            self.contended.retain(|_, contention| contention.since.elapsed() < CONTENDED_FOR);
        }
        let again = match self.contended.get(convo) {
            Some(known) if known.since.elapsed() < CONTENDED_FOR => true,
            None if self.contended.len() >= MOST_CONTENDED => return,
            _ => found == Found::Waited,
        };
        self.contended.insert(convo.clone(), Contention { since: Instant::now(), again });
    }
}

struct Queue<J> {
    jobs: VecDeque<J>,
    /// A worker has taken requests of this conversation and not given it back.
    taken: bool,
}

fn full(what: &str) -> Error {
    Code::Overloaded.because(format!("too many requests are waiting for {what}; nothing was changed"))
}

impl<J: Job> Queues<J> {
    pub fn new(metrics: QueueMetrics) -> Self {
        let state = State { queues: HashMap::new(), ready: Default::default(), waiting: 0, contended: HashMap::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), ready: Default::default(), metrics }))
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        queue.jobs.push_back(job);
        if !queue.taken && queue.jobs.len() == 1 {
            self.make_ready(&mut state, convo);
        }
    }

    /// Puts a conversation that nobody has in hand where a worker finds it.
    fn make_ready(&self, state: &mut State<J>, convo: &ConvoId) {
        let Some(first) = state.queues.get(convo).and_then(|queue| queue.jobs.front()) else { return };
        let company = if state.is_contended(convo) { Company::Nobody } else { first.company() } as usize;
        state.ready[company].push_back(convo.clone());
        self.0.ready[company].notify_one();
    }

    /// The next requests that keep this company, by conversation and in order; waits for some. Their conversations are in the
    /// caller's hands until `give_back`, also those of which it gets nothing because everything had waited for too long.
    ///
    /// A conversation gets the whole batch if it is alone, and its share of it if others are ready too. What keeps no company comes
    /// alone, and what is contended with others of its kind from the same conversation.
    pub async fn next(&self, company: Company) -> Vec<(ConvoId, Vec<J>)> {
        loop {
            let batch = self.take(company);
            if !batch.is_empty() {
                return batch;
            }
            self.0.ready[company as usize].notified().await;
        }
    }

    fn take(&self, company: Company) -> Vec<(ConvoId, Vec<J>)> {
        let mut locked = self.state();
        let state = &mut *locked;
        let ready = &mut state.ready[company as usize];
        let (mut room, share) = match company {
            Company::Messages | Company::Commits => (BATCH, (BATCH / ready.len().max(1)).max(1)),
            Company::Nobody => (BATCH, BATCH),
        };
        let (mut batch, mut bytes, mut late) = (Vec::new(), 0, Vec::new());
        while room > 0
            && (company != Company::Nobody || batch.is_empty())
            && bytes < BATCH_BYTES
            && let Some(convo) = ready.pop_front()
        {
            let Some(queue) = state.queues.get_mut(&convo) else { continue };
            queue.taken = true;
            let kind = queue.jobs.front().map_or(company, Job::company);
            let share = if kind == Company::Nobody { 1 } else { share };
            let jobs = self.draw(queue, kind, share.min(room), &mut bytes, &mut late);
            room -= jobs.len();
            state.waiting -= jobs.len();
            batch.push((convo, jobs));
        }
        state.waiting -= late.len();
        if !ready.is_empty() {
            self.0.ready[company as usize].notify_one();
        }
        drop(locked);
        late.into_iter().for_each(|job| job.refuse(waited_too_long()));
        batch
    }

    /// So many requests from the front of a queue that keep this company, with the bytes that they add, apart from those that have
    /// waited for too long.
    fn draw(&self, queue: &mut Queue<J>, kind: Company, most: usize, bytes: &mut usize, late: &mut Vec<J>) -> Vec<J> {
        let mut jobs = Vec::new();
        while jobs.len() < most
            && *bytes < BATCH_BYTES
            && let Some(job) = queue.jobs.pop_front_if(|job| job.company() == kind)
        {
            let waited = job.since().elapsed();
            self.0.metrics.queued(waited);
            if waited <= LONGEST_WAIT {
                *bytes += job.bytes();
                jobs.push(job);
            } else {
                late.push(job);
            }
        }
        jobs
    }

    /// What has arrived for a conversation in the caller's hands and keeps this company, for a transaction that has so many requests
    /// and bytes already.
    pub fn more(&self, convo: &ConvoId, kind: Company, requests: usize, mut bytes: usize) -> Vec<J> {
        let mut late = Vec::new();
        let mut state = self.state();
        let Some(queue) = state.queues.get_mut(convo) else { return Vec::new() };
        let jobs = self.draw(queue, kind, BATCH.saturating_sub(requests), &mut bytes, &mut late);
        state.waiting -= jobs.len() + late.len();
        drop(state);
        late.into_iter().for_each(|job| job.refuse(waited_too_long()));
        jobs
    }

    /// Gives a conversation back, with what could not be done; that comes before everything that arrived meanwhile.
    pub fn give_back(&self, convo: &ConvoId, undone: Vec<J>, found: Found) {
        let mut state = self.state();
        state.note(convo, found);
        state.waiting += undone.len();
        let Some(queue) = state.queues.get_mut(convo) else { return };
        queue.taken = false;
        for job in undone.into_iter().rev() {
            queue.jobs.push_front(job);
        }
        if queue.jobs.is_empty() {
            state.queues.remove(convo);
        } else {
            self.make_ready(&mut state, convo);
        }
    }
}

#[cfg(test)]
#[path = "queues_tests.rs"]
mod tests;
