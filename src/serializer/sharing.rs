//! Requests on their way to a transaction, shared or their own, each with the way back to whoever made it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Span;

use crate::commands::{Landing, SendMessage, Shared};
use crate::error::{Code, Error, Reason};
use crate::store::{Command, Done, Locks, Store, unconfirmed};
use crate::timing::Timings;

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
    match error.code {
        Code::EpochMismatch => error.details.reason == Some(Reason::Stale),
        code => code == Code::IdempotencyConflict,
    }
}

/// What a shared transaction did not do.
pub(crate) struct Undone<C: Command> {
    pub waiting: Waiting<C>,
    /// It may share the next one; otherwise it has to be done alone.
    pub later: bool,
}

/// Does together what can be done together and answers it. Returns what came of those, and the rest, in order.
pub(crate) async fn share<C: Shared>(
    store: &Store,
    requests: Vec<Waiting<C>>,
    locks: Locks,
) -> (Vec<C::Output>, Vec<Undone<C>>)
where
    C::Output: Clone,
{
    if requests.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let batch = C::together(requests.iter().map(|request| request.command.clone()).collect());
    let shared = Timings::default();
    let landed = shared.scope(store.batch(batch, locks)).await;
    requests.iter().for_each(|request| request.timings.add(&shared));
    let Done { output: landed, in_doubt, .. } = match landed {
        Ok(done) => done,
        // PostgreSQL is away, and would be for each of them alone.
        Err(error) if error.code == Code::DatabaseUnavailable => {
            requests.into_iter().for_each(|request| request.answer(Err(error.clone())));
            return (Vec::new(), Vec::new());
        }
        Err(_) => {
            return (Vec::new(), requests.into_iter().map(|waiting| Undone { waiting, later: false }).collect());
        }
    };
    let (mut done, mut undone) = (Vec::new(), Vec::new());
    for (request, landing) in requests.into_iter().zip(landed) {
        let later = match landing {
            Landing::Done(output) => {
                done.push(output.clone());
                request.answer(Ok(output));
                continue;
            }
            Landing::Alone => false,
            Landing::Later => true,
        };
        undone.push(Undone { waiting: Waiting { in_doubt: request.in_doubt || in_doubt, ..request }, later });
    }
    (done, undone)
}
