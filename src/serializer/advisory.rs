//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! Two workers send batches of messages, the others do everything else, one request at a time. A worker has a conversation to
//! itself, so its requests keep their order of arrival. A batch only takes locks that are free; messages of a conversation
//! that is locked elsewhere are done alone by the other workers, and delay nobody.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::commands::{SendBatch, SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;
use crate::store::{Abort, Command, Hold, Locks, Store};
use crate::timing::Timings;

use super::queues::{Job, Queues};

/// Workers that send batches: while one waits for PostgreSQL to flush, the other fills the next transaction.
const BATCH_WORKERS: usize = 2;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues<Request>,
}

/// A request in a queue.
enum Request {
    /// A message that may share a transaction.
    Send(Send),
    /// Anything else, and messages that a batch could not take.
    Alone(Box<dyn Alone>),
}

struct Send {
    command: Arc<SendMessage>,
    reply: oneshot::Sender<Result<Sent, Error>>,
    span: Span,
    timings: Timings,
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

    fn refuse(self, error: Error) {
        match self {
            Self::Send(send) => drop(send.reply.send(Err(error))),
            Self::Alone(alone) => alone.refuse(error),
        }
    }
}

impl Advisory {
    /// Starts the workers, on the store's runtime.
    pub fn new(store: &Store, metrics: Metrics, max_connections: usize) -> Self {
        let queues = Queues::new(metrics);
        for _ in 0..BATCH_WORKERS {
            store.runtime().spawn(send_batches(queues.clone(), store.clone()));
        }
        // Half of the connections, so that reads never wait for writes that wait for locks.
        for _ in 0..(max_connections / 2).max(1) {
            store.runtime().spawn(run_alone(queues.clone(), store.clone()));
        }
        Self { queues }
    }

    /// Whether somebody waits for the conversation, or is being served.
    pub(super) fn has_queue(&self, convo: &ConvoId) -> bool {
        self.queues.has(convo)
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
        let (reply, answer) = oneshot::channel();
        let convo = command.convo_id.clone();
        let (span, timings) = (Span::current(), Timings::current());
        let send = Send { command: Arc::new(command), reply, span, timings };
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
        let sends: Vec<Send> = batch.into_iter().flat_map(|(_, requests)| requests).filter_map(Request::send).collect();
        let mut undone = send_batch(&store, sends).await;
        for convo in convos {
            let (mine, others): (Vec<Send>, Vec<Send>) =
                undone.into_iter().partition(|send| send.command.convo_id == convo);
            undone = others;
            queues.give_back(&convo, mine.into_iter().map(|send| Request::Alone(send.alone())).collect());
        }
    }
}

/// Sends what can be sent together and answers it; returns the rest, in order.
async fn send_batch(store: &Store, sends: Vec<Send>) -> Vec<Send> {
    if sends.is_empty() {
        return sends;
    }
    let commands = sends.iter().map(|send| send.command.clone()).collect();
    let shared = Timings::default();
    let landed = shared.scope(store.batch(SendBatch(commands), Locks::Try)).await;
    sends.iter().for_each(|send| send.timings.add(&shared));
    let landed = match landed {
        Ok(landed) => landed,
        // PostgreSQL is away or overloaded, and would be for each of them alone.
        Err(error) if matches!(error.code, Code::DatabaseUnavailable | Code::Overloaded) => {
            sends.into_iter().for_each(|send| drop(send.reply.send(Err(error.clone()))));
            return Vec::new();
        }
        Err(_) => return sends,
    };
    let mut undone = Vec::new();
    for (send, landed) in sends.into_iter().zip(landed) {
        match landed {
            Some(sent) => drop(send.reply.send(Ok(sent))),
            None => undone.push(send),
        }
    }
    undone
}

impl Request {
    fn send(self) -> Option<Send> {
        match self {
            Self::Send(send) => Some(send),
            Self::Alone(_) => None,
        }
    }
}

impl Send {
    fn alone(self) -> Box<Run<SendMessage>> {
        Box::new(Run { command: self.command, reply: self.reply, span: self.span, timings: self.timings })
    }
}
