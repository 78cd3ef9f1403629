//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! One worker sends batches of messages, the others do everything else, one request at a time. A worker has a conversation to
//! itself, so its requests keep their order of arrival. A batch only takes locks that are free; messages of a conversation
//! that is locked elsewhere are done alone by the other workers, and delay nobody. One batch at a time: two would be half as
//! large, and a message costs PostgreSQL the less the more of them share a transaction.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::commands::{SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;
use crate::store::{Abort, Command, Hold, Locks, Store};
use crate::timing::Timings;

use super::queues::{Job, Queues};
use super::sending::{Sending, send_together};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues<Request>,
}

/// A request in a queue.
enum Request {
    /// A message that may share a transaction.
    Send(Sending),
    /// Anything else, and messages that a batch could not take.
    Alone(Box<dyn Alone>),
}

/// A command with its way back.
trait Alone: std::marker::Send {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>>;
    fn refuse(self: Box<Self>, error: Error);
}

struct Run<C: Command> {
    command: Arc<C>,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    span: Span,
    timings: Timings,
}

impl<C: Command> Alone for Run<C> {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>> {
        let Self { command, reply, span, timings } = *self;
        let work = async move {
            let done = store.run(command, Hold::Lock).await;
            // The client may be gone; what was done stays done.
            let _ = reply.send(done.map(|done| done.output).map_err(Abort::into_error));
        };
        Box::pin(timings.scope(work).instrument(span))
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
    }
}

impl Job for Request {
    fn shares(&self) -> bool {
        matches!(self, Self::Send(_))
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => send.command.message.ciphertext.len(),
            Self::Alone(_) => 0,
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Send(send) => send.answer(Err(error)),
            Self::Alone(alone) => alone.refuse(error),
        }
    }
}

impl Advisory {
    /// Starts the workers, on the store's runtime.
    pub fn new(store: &Store, metrics: Metrics, max_connections: usize) -> Self {
        let queues = Queues::new(metrics);
        store.runtime().spawn(send_batches(queues.clone(), store.clone()));
        // Half of the connections, so that reads never wait for writes that wait for locks.
        for _ in 0..(max_connections / 2).max(1) {
            store.runtime().spawn(run_alone(queues.clone(), store.clone()));
        }
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
        let run = Run { command: Arc::new(command), reply, span, timings };
        self.queues.push(&convo, Request::Alone(Box::new(run)));
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

async fn run_alone(queues: Queues<Request>, store: Store) {
    loop {
        let (convo, request) = queues.next_alone().await;
        let work = match request {
            Request::Alone(alone) => alone.run(store.clone()),
            Request::Send(send) => send.alone().run(store.clone()),
        };
        // In a task of its own, so that a panic costs one request and not the worker.
        let _ = store.runtime().spawn(work).await;
        queues.give_back(&convo, Vec::new());
    }
}

async fn send_batches(queues: Queues<Request>, store: Store) {
    loop {
        let batch = queues.next_batch().await;
        let convos: Vec<ConvoId> = batch.iter().map(|(convo, _)| convo.clone()).collect();
        let sends: Vec<Sending> =
            batch.into_iter().flat_map(|(_, requests)| requests).filter_map(Request::send).collect();
        let (_, mut undone) = send_together(&store, sends, Locks::Try).await;
        for convo in convos {
            let (mine, others): (Vec<Sending>, Vec<Sending>) =
                undone.into_iter().partition(|send| send.command.convo_id == convo);
            undone = others;
            queues.give_back(&convo, mine.into_iter().map(|send| Request::Alone(send.alone())).collect());
        }
    }
}

impl Request {
    fn send(self) -> Option<Sending> {
        match self {
            Self::Send(send) => Some(send),
            Self::Alone(_) => None,
        }
    }
}

impl Sending {
    fn alone(self) -> Box<Run<SendMessage>> {
        Box::new(Run { command: self.command, reply: self.reply, span: self.span, timings: self.timings })
    }
}
