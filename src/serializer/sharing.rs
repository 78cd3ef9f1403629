//! Requests on their way to a transaction, shared or their own, each with the way back to whoever made it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Span;

use crate::commands::{SendMessage, Shared};
use crate::error::{Code, Error};
use crate::store::{Command, Done, Landing, Locks, MAX_LOCK_WAIT, Store, unconfirmed};
use crate::timing::{StageTimes, Timings};

/// A command, since when it waits, who waits for its answer, and under which request it is logged and timed.
pub(crate) struct Waiting<C: Command> {
    pub command: Arc<C>,
    pub since: Instant,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    pub span: Span,
    pub timings: Timings,
    /// It was in a transaction that got no answer, so nobody may say of it that nothing was changed.
    in_doubt: bool,
}

/// A message on its way.
pub(crate) type Sending = Waiting<SendMessage>;

impl<C: Command> Waiting<C> {
    /// A command of the request that this task works for, and where its answer will be.
    pub fn new(command: C) -> (Self, oneshot::Receiver<Result<C::Output, Error>>) {
        let (reply, answer) = oneshot::channel();
        let (span, timings) = (Span::current(), Timings::current());
        (Self { command: Arc::new(command), since: Instant::now(), reply, span, timings, in_doubt: false }, answer)
    }

    /// Answers it. The client may be gone; what was done stays done.
    pub fn answer(self, answer: Result<C::Output, Error>) {
        let in_doubt = self.in_doubt;
        let honest = |error: Error| if in_doubt && !is_final(&error) { unconfirmed() } else { error };
        let _ = self.reply.send(answer.map_err(honest));
    }
}

/// Whether a refusal stands even if an attempt that was not answered should arrive yet: the epoch is over for that one too, and the id
/// or the key is another request's.
fn is_final(error: &Error) -> bool {
    matches!(error.code, Code::EpochMismatch | Code::EpochExpired | Code::IdempotencyConflict)
}

/// Where something goes that a shared transaction did not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Into a transaction of its own.
    Alone,
    /// Into the next shared transaction.
    Later,
    /// Into a shared transaction again, which had better wait for its conversation: somebody else is writing that.
    Contended,
}

/// What a shared transaction did not do.
pub(crate) struct Undone<C: Command> {
    pub waiting: Waiting<C>,
    pub next: Next,
}

/// What came of a shared transaction.
pub(crate) struct Outcome<C: Command> {
    pub done: Vec<C::Output>,
    /// The rest, in order.
    pub undone: Vec<Undone<C>>,
    /// Whether it had to wait for the lock of its conversation.
    pub waited: bool,
}

impl<C: Command> Default for Outcome<C> {
    fn default() -> Self {
        Self { done: Vec::new(), undone: Vec::new(), waited: false }
    }
}

/// Does together what can be done together and answers it, and also what has waited for too long for its conversation.
///
/// What waits for a lock asks `arrivals` for more when it has it, and says how much it has so far.
pub(crate) async fn share<C: Shared>(
    store: &Store,
    requests: Vec<Waiting<C>>,
    locks: Locks,
    arrivals: impl Fn(Load) -> Vec<Waiting<C>> + Send + Sync + 'static,
) -> Outcome<C>
where
    C::Output: Clone,
{
    if requests.is_empty() {
        return Outcome::default();
    }
    let company = Company::new(requests);
    let batch = company.batch();
    let more = {
        let company = company.clone();
        move || company.grow(&arrivals).then(|| company.batch())
    };
    let shared = Timings::default();
    let landed = shared.scope(store.batch(batch, locks, more)).await;
    let requests = company.part(&shared);
    let Done { output: landed, in_doubt, contended: waited, .. } = match landed {
        Ok(done) => done,
        // PostgreSQL is away, and would be for each of them alone.
        Err(error) if error.code == Code::DatabaseUnavailable => {
            requests.into_iter().for_each(|request| request.answer(Err(error.clone())));
            return Outcome::default();
        }
        // Something in it waited for somebody, or is a defect. A batch of one conversation finds out of which.
        Err(_) => {
            let next = if locks == Locks::Wait { Next::Alone } else { Next::Contended };
            let undone = requests.into_iter().map(|waiting| Undone { waiting, next }).collect();
            return Outcome { undone, ..Outcome::default() };
        }
    };
    let mut outcome = Outcome { waited, ..Outcome::default() };
    let landed = landed.into_iter().chain(std::iter::repeat_with(|| Landing::Contended));
    for (request, landing) in requests.into_iter().zip(landed) {
        let next = match landing {
            Landing::Done(output) => {
                outcome.done.push(output.clone());
                request.answer(Ok(output));
                continue;
            }
            Landing::Alone => Next::Alone,
            Landing::Later => Next::Later,
            // It may be in the very transaction that it would wait for. Alone it waits for that one's end, and finds itself.
            Landing::Contended if request.in_doubt || in_doubt => Next::Alone,
            Landing::Contended => Next::Contended,
        };
        let waiting = Waiting { in_doubt: request.in_doubt || in_doubt, ..request };
        match next == Next::Contended && waiting.since.elapsed() > MAX_LOCK_WAIT {
            true => waiting.answer(Err(waited_too_long())),
            false => outcome.undone.push(Undone { waiting, next }),
        }
    }
    outcome
}

/// What is in a shared transaction so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    pub requests: usize,
    pub bytes: usize,
}

/// The requests of one shared transaction, in order, to which others may come as long as it waits. Clones are the same.
struct Company<C: Command>(Arc<Mutex<Vec<Member<C>>>>);

impl<C: Command> Clone for Company<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Member<C: Command> {
    request: Waiting<C>,
    /// How long the stages had taken that were over when it came.
    missed: StageTimes,
}

impl<C: Shared> Company<C> {
    fn new(requests: Vec<Waiting<C>>) -> Self {
        let members = requests.into_iter().map(|request| Member { request, missed: StageTimes::default() });
        Self(Arc::new(Mutex::new(members.collect())))
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member<C>>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn batch(&self) -> C::Batch {
        C::together(self.members().iter().map(|member| member.request.command.clone()).collect())
    }

    /// Adds what has arrived. False if nothing has.
    fn grow(&self, arrivals: impl Fn(Load) -> Vec<Waiting<C>>) -> bool {
        let mut members = self.members();
        let bytes = members.iter().map(|member| member.request.command.bytes()).sum();
        let (missed, before) = (Timings::current().so_far(), members.len());
        let arrived = arrivals(Load { requests: before, bytes });
        members.extend(arrived.into_iter().map(|request| Member { request, missed }));
        members.len() > before
    }

    /// The requests, each with the time that it took part.
    fn part(self, shared: &Timings) -> Vec<Waiting<C>> {
        let members = std::mem::take(&mut *self.members());
        let part = |Member { request, missed }| {
            request.timings.add(shared, &missed);
            request
        };
        members.into_iter().map(part).collect()
    }
}

/// The answer to what others kept from its conversation for too long.
pub(crate) fn waited_too_long() -> Error {
    Code::Overloaded.because("waited too long for other writers of this conversation; nothing was changed")
}
