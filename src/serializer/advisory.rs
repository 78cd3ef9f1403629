//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! One worker sends batches of messages, some run commands that share a transaction, and the others do everything else, one
//! request at a time ([`super::workers`]). A worker has a conversation to itself, so its requests keep their order of arrival. A
//! shared transaction only takes locks that are free; requests for a conversation that is locked elsewhere are done alone by the
//! other workers, and delay nobody. One batch of messages at a time, unless it is late: two would be half as large, and a message
//! costs PostgreSQL the less the more of them share a transaction.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::commands::{SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;
use crate::store::{Command, Hold, Shareable, Slot, Store};
use crate::timing::Timings;

use super::queues::{Company, Job, Queues};
use super::sending::{Sending, honest};
use super::workers;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues<Request>,
}

/// A request in a queue.
pub(super) enum Request {
    /// A message that may share a transaction.
    Send(Sending),
    /// A command that may, of so many bytes.
    Share(Box<dyn Running>, usize),
    /// Anything else, and what a shared transaction could not do.
    Alone(Box<dyn Running>),
}

/// A command with its way back.
pub(super) trait Running: std::marker::Send {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>>;
    /// The command as a part of a shared transaction.
    fn shareable(&self) -> Arc<dyn Shareable>;
    /// Answers it with what it returned in a shared transaction that was committed.
    fn done(self: Box<Self>, shared: &Timings);
    fn refuse(self: Box<Self>, error: Error);
    fn since(&self) -> Instant;
    /// Under what it is logged.
    fn span(&self) -> Span;
}

struct Run<C: Command> {
    slot: Arc<Slot<C>>,
    since: Instant,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    span: Span,
    timings: Timings,
    /// As in [`Sending`].
    in_doubt: bool,
}

// The client may be gone wherever it is answered; what was done stays done.
impl<C: Command> Running for Run<C> {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>> {
        let Self { slot, reply, span, timings, in_doubt, .. } = *self;
        let work = async move {
            let done = store.run(slot.command.clone(), Hold::Lock).await;
            let _ = reply.send(done.map(|done| done.output).map_err(|abort| honest(abort.into_error(), in_doubt)));
        };
        Box::pin(timings.scope(work).instrument(span))
    }

    fn shareable(&self) -> Arc<dyn Shareable> {
        self.slot.clone()
    }

    fn done(self: Box<Self>, shared: &Timings) {
        self.timings.add(shared);
        let _ = self.reply.send(self.slot.take().unwrap_or_else(|| Err(Error::internal("a command returned nothing"))));
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(honest(error, self.in_doubt)));
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn span(&self) -> Span {
        self.span.clone()
    }
}

impl Job for Request {
    fn company(&self) -> Company {
        match self {
            Self::Send(_) => Company::Messages,
            Self::Share(..) => Company::Commands,
            Self::Alone(_) => Company::Nobody,
        }
    }

    fn since(&self) -> Instant {
        match self {
            Self::Send(send) => send.since,
            Self::Share(run, _) | Self::Alone(run) => run.since(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => send.command.message.ciphertext.len(),
            Self::Share(_, bytes) => *bytes,
            Self::Alone(_) => 0,
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Send(send) => send.answer(Err(error)),
            Self::Share(run, _) | Self::Alone(run) => run.refuse(error),
        }
    }
}

impl Advisory {
    /// Starts the workers, on the store's runtime.
    pub fn new(store: &Store, metrics: Metrics, max_connections: usize) -> Self {
        let queues = Queues::new(metrics);
        workers::start(&queues, store, max_connections);
        Self { queues }
    }

    /// Whether many wait for the conversation, or for this replica.
    pub(super) fn is_crowded(&self, convo: &ConvoId) -> bool {
        self.queues.is_crowded(convo)
    }

    pub(super) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let (reply, answer) = oneshot::channel();
        let convo = command.convo().clone();
        let (span, timings) = (Span::current(), Timings::current());
        let bytes = command.shares();
        let slot = Arc::new(Slot::new(Arc::new(command)));
        let run = Box::new(Run { slot, since: Instant::now(), reply, span, timings, in_doubt: false });
        let request = match bytes {
            Some(bytes) => Request::Share(run, bytes),
            None => Request::Alone(run),
        };
        self.queues.push(&convo, request);
        answered(answer).await
    }

    pub(super) async fn send(&self, command: SendMessage) -> Result<Sent, Error> {
        let convo = command.convo_id.clone();
        let (send, answer) = Sending::new(command);
        self.queues.push(&convo, Request::Send(send));
        answered(answer).await
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, Error>>) -> Result<T, Error> {
    answer
        .await
        .unwrap_or_else(|_| Err(Code::InternalServerError.because("the request's worker failed; the log says where")))
}

impl Request {
    pub fn send(self) -> Option<Sending> {
        match self {
            Self::Send(send) => Some(send),
            Self::Share(..) | Self::Alone(_) => None,
        }
    }

    /// A command that may share a transaction, and its bytes.
    pub fn shared(self) -> Option<(Box<dyn Running>, usize)> {
        match self {
            Self::Share(run, bytes) => Some((run, bytes)),
            Self::Send(_) | Self::Alone(_) => None,
        }
    }

    pub fn running(self) -> Box<dyn Running> {
        match self {
            Self::Send(send) => send.running(),
            Self::Share(run, _) | Self::Alone(run) => run,
        }
    }
}

impl Sending {
    pub(super) fn running(self) -> Box<dyn Running> {
        let Self { command, since, reply, span, timings, in_doubt } = self;
        Box::new(Run { slot: Arc::new(Slot::new(command)), since, reply, span, timings, in_doubt })
    }
}
