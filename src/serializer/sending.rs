//! Messages on their way to a shared transaction, each with the way back to whoever sent it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::Span;

use crate::commands::{SendBatch, SendMessage, Sent};
use crate::error::{Code, Error};
use crate::store::{Done, Locks, Store, unconfirmed};
use crate::timing::Timings;

/// A message, since when it waits, who waits for its answer, and under which request it is logged and timed.
pub(crate) struct Sending {
    pub command: Arc<SendMessage>,
    pub since: Instant,
    pub reply: oneshot::Sender<Result<Sent, Error>>,
    pub span: Span,
    pub timings: Timings,
    /// It was in a transaction that got no answer, so nobody may say of it that nothing was changed.
    pub in_doubt: bool,
}

impl Sending {
    /// A message of the request that this task works for, and where its answer will be.
    pub fn new(command: SendMessage) -> (Self, oneshot::Receiver<Result<Sent, Error>>) {
        let (reply, answer) = oneshot::channel();
        let (span, timings) = (Span::current(), Timings::current());
        (Self { command: Arc::new(command), since: Instant::now(), reply, span, timings, in_doubt: false }, answer)
    }

    /// The client may be gone; what was done stays done.
    pub fn answer(self, answer: Result<Sent, Error>) {
        let _ = self.reply.send(answer.map_err(|error| honest(error, self.in_doubt)));
    }
}

/// The error for what may have been done by an earlier attempt: that this one changed nothing does not say that nothing was changed.
pub(crate) fn honest(error: Error, in_doubt: bool) -> Error {
    match error.code {
        Code::Overloaded | Code::DatabaseUnavailable if in_doubt => unconfirmed(),
        _ => error,
    }
}

/// Sends what can be sent together and answers it; returns the rest, in order, to be done alone.
pub(crate) async fn send_together(store: &Store, sends: Vec<Sending>, locks: Locks) -> (Vec<Sent>, Vec<Sending>) {
    if sends.is_empty() {
        return (Vec::new(), sends);
    }
    let messages = sends.iter().map(|send| send.command.clone()).collect();
    let batch = SendBatch { messages };
    let shared = Timings::default();
    let landed = shared.scope(store.batch(batch, locks)).await;
    sends.iter().for_each(|send| send.timings.add(&shared));
    let Done { output: landed, in_doubt, .. } = match landed {
        Ok(done) => done,
        // PostgreSQL is away, and would be for each of them alone.
        Err(error) if error.code == Code::DatabaseUnavailable => {
            sends.into_iter().for_each(|send| send.answer(Err(error.clone())));
            return (Vec::new(), Vec::new());
        }
        Err(_) => return (Vec::new(), sends),
    };
    let (mut done, mut undone) = (Vec::new(), Vec::new());
    for (send, landed) in sends.into_iter().zip(landed) {
        match landed {
            Some(sent) => {
                done.push(sent.clone());
                send.answer(Ok(sent));
            }
            None => undone.push(Sending { in_doubt: send.in_doubt || in_doubt, ..send }),
        }
    }
    (done, undone)
}
