//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! One worker sends batches of messages, some run commands that share a transaction, and the others do everything else, one
//! request at a time. A worker has a conversation to itself, so its requests keep their order of arrival. A shared transaction only
//! takes locks that are free; requests for a conversation that is locked elsewhere are done alone by the other workers, and delay
//! nobody. One batch of messages at a time: two would be half as large, and a message costs PostgreSQL the less the more of them
//! share a transaction.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::commands::{SendMessage, Sent};
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;
use crate::store::{Abort, Command, Hold, Locks, Shareable, Slot, Store};
use crate::timing::Timings;

use super::queues::{Company, Job, Queues};
use super::sending::{Sending, send_together};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues<Request>,
}

/// Workers that run commands in shared transactions.
const SHARING_WORKERS: usize = 2;

/// A request in a queue.
enum Request {
    /// A message that may share a transaction.
    Send(Sending),
    /// A command that may, of so many bytes.
    Share(Box<dyn Running>, usize),
    /// Anything else, and what a shared transaction could not do.
    Alone(Box<dyn Running>),
}

/// A command with its way back.
trait Running: std::marker::Send {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>>;
    /// The command as a part of a shared transaction.
    fn shareable(&self) -> Arc<dyn Shareable>;
    /// Answers it with what it returned in a shared transaction that was committed.
    fn done(self: Box<Self>, shared: &Timings);
    fn refuse(self: Box<Self>, error: Error);
}

struct Run<C: Command> {
    slot: Arc<Slot<C>>,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    span: Span,
    timings: Timings,
}

// The client may be gone wherever it is answered; what was done stays done.
impl<C: Command> Running for Run<C> {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + std::marker::Send>> {
        let Self { slot, reply, span, timings } = *self;
        let work = async move {
            let done = store.run(slot.command.clone(), Hold::Lock).await;
            let _ = reply.send(done.map(|done| done.output).map_err(Abort::into_error));
        };
        Box::pin(timings.scope(work).instrument(span))
    }

    fn shareable(&self) -> Arc<dyn Shareable> {
        self.slot.clone()
    }

    fn done(self: Box<Self>, shared: &Timings) {
        self.timings.add(shared);
        let _ = self.reply.send(self.slot.take().ok_or_else(|| Error::internal("a command returned nothing")));
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Err(error));
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
        store.runtime().spawn(send_batches(queues.clone(), store.clone()));
        for _ in 0..SHARING_WORKERS {
            store.runtime().spawn(run_shared(queues.clone(), store.clone()));
        }
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
        let bytes = command.shares();
        let run = Box::new(Run { slot: Arc::new(Slot::new(Arc::new(command))), reply, span, timings });
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

async fn run_alone(queues: Queues<Request>, store: Store) {
    loop {
        for (convo, requests) in queues.next(Company::Nobody).await {
            for request in requests {
                // In a task of its own, so that a panic costs one request and not the worker.
                let _ = store.runtime().spawn(request.running().run(store.clone())).await;
            }
            queues.give_back(&convo, Vec::new());
        }
    }
}

async fn run_shared(queues: Queues<Request>, store: Store) {
    loop {
        let (convos, runs): (Vec<ConvoId>, Vec<Option<Box<dyn Running>>>) = queues
            .next(Company::Commands)
            .await
            .into_iter()
            .map(|(convo, mut requests)| (convo, requests.pop().map(Request::running)))
            .unzip();
        let runs_there = runs.iter().flatten();
        let commands: Vec<Arc<dyn Shareable>> = runs_there.map(|run| run.shareable()).collect();
        let is_alone = commands.len() == 1;
        let shared = Timings::default();
        let mut done = match commands.is_empty() {
            true => Ok(Vec::new().into_iter()),
            false => shared.scope(store.share(commands)).await.map(Vec::into_iter),
        };
        for (convo, run) in convos.into_iter().zip(runs) {
            let undone = run.and_then(|run| match &mut done {
                Ok(done) => match done.next() {
                    Some(true) => {
                        run.done(&shared);
                        None
                    }
                    _ => Some(run),
                },
                Err(error) if is_verdict(error, is_alone) => {
                    run.refuse(error.clone());
                    None
                }
                Err(_) => Some(run),
            });
            queues.give_back(&convo, undone.into_iter().map(Request::Alone).collect());
        }
    }
}

/// Whether what ended a shared transaction is the answer to each of its commands. Where one waited in vain, it waits longer alone.
fn is_verdict(error: &Error, is_alone: bool) -> bool {
    match error.code {
        // PostgreSQL is away, and would be for each of them alone.
        Code::DatabaseUnavailable => true,
        Code::Overloaded => false,
        _ => is_alone,
    }
}

async fn send_batches(queues: Queues<Request>, store: Store) {
    loop {
        let batch = queues.next(Company::Messages).await;
        let convos: Vec<ConvoId> = batch.iter().map(|(convo, _)| convo.clone()).collect();
        let sends: Vec<Sending> =
            batch.into_iter().flat_map(|(_, requests)| requests).filter_map(Request::send).collect();
        let (_, mut undone) = send_together(&store, sends, Locks::Try).await;
        for convo in convos {
            let (mine, others): (Vec<Sending>, Vec<Sending>) =
                undone.into_iter().partition(|send| send.command.convo_id == convo);
            undone = others;
            queues.give_back(&convo, mine.into_iter().map(|send| Request::Alone(send.running())).collect());
        }
    }
}

impl Request {
    fn send(self) -> Option<Sending> {
        match self {
            Self::Send(send) => Some(send),
            Self::Share(..) | Self::Alone(_) => None,
        }
    }

    fn running(self) -> Box<dyn Running> {
        match self {
            Self::Send(send) => send.running(),
            Self::Share(run, _) | Self::Alone(run) => run,
        }
    }
}

impl Sending {
    fn running(self) -> Box<dyn Running> {
        let Self { command, reply, span, timings, .. } = self;
        Box::new(Run { slot: Arc::new(Slot::new(command)), reply, span, timings })
    }
}
