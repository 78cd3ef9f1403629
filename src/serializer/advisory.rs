//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! One worker does batches of messages, one batches of commits, and the others do everything that waits for a lock, one conversation
//! at a time ([`super::workers`]). A worker has a conversation to itself, so its requests keep their order of arrival. A batch of several
//! conversations only takes locks that are free; a conversation that is locked elsewhere again and again is contended, and gets batches
//! of its own that wait, which delay nobody else. So replicas that write one conversation take turns with a batch each. One
//! batch of a kind at a time, unless it is late: two would be half as large, and a message costs PostgreSQL the less the more of them
//! share a transaction.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::Instrument;

use crate::background::Background;
use crate::commands::{AddMembers, SendMessage, Shared};
use crate::error::{Code, Error};
use crate::store::{Command, Hold, Store, unconfirmed};
use crate::timing::within_deadline;

use super::metrics::QueueMetrics;
use super::queues::{Company, Job, Queues};
use super::sharing::Waiting;
use super::workers;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues<Request>,
}

/// A request in a queue.
pub(super) enum Request {
    /// A message, which may share a transaction with others.
    Send(Waiting<SendMessage>),
    /// A commit, which may too.
    Add(Waiting<AddMembers>),
    /// Anything else, and what a shared transaction could not do.
    Alone(Box<dyn Running>),
}

/// A command of any kind with its way back.
pub(super) trait Running: Send {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + Send>>;
    fn refuse(self: Box<Self>, error: Error);
    fn since(&self) -> Instant;
}

impl<C: Command> Running for Waiting<C> {
    fn run(self: Box<Self>, store: Store) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (timings, span) = (self.timings.clone(), self.span.clone());
        let work = async move {
            let done = store.run(self.command.clone(), Hold::Lock).await;
            self.answer(done.map(|done| done.output).map_err(Error::from));
        };
        Box::pin(timings.scope(work).instrument(span))
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.answer(Err(error));
    }

    fn since(&self) -> Instant {
        self.since
    }
}

/// A command with a kind of batches of its own.
pub(super) trait Queued: Shared<Output: Clone> + Sized {
    const COMPANY: Company;
    /// Whether anything of its kind is certain without a lock.
    const SETTLES: bool;
    fn into_request(waiting: Waiting<Self>) -> Request;
    fn from_request(request: Request) -> Option<Waiting<Self>>;
}

impl Queued for SendMessage {
    const COMPANY: Company = Company::Messages;
    const SETTLES: bool = false;

    fn into_request(waiting: Waiting<Self>) -> Request {
        Request::Send(waiting)
    }

    fn from_request(request: Request) -> Option<Waiting<Self>> {
        if let Request::Send(waiting) = request { Some(waiting) } else { None }
    }
}

impl Queued for AddMembers {
    const COMPANY: Company = Company::Commits;
    const SETTLES: bool = true;

    fn into_request(waiting: Waiting<Self>) -> Request {
        Request::Add(waiting)
    }

    fn from_request(request: Request) -> Option<Waiting<Self>> {
        if let Request::Add(waiting) = request { Some(waiting) } else { None }
    }
}

impl Job for Request {
    fn company(&self) -> Company {
        match self {
            Self::Send(_) => Company::Messages,
            Self::Add(_) => Company::Commits,
            Self::Alone(_) => Company::Nobody,
        }
    }

    fn since(&self) -> Instant {
        match self {
            Self::Send(send) => send.since,
            Self::Add(add) => add.since,
            Self::Alone(run) => run.since(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Send(send) => send.command.bytes(),
            Self::Add(add) => add.command.bytes(),
            Self::Alone(_) => 0,
        }
    }

    fn refuse(self, error: Error) {
        match self {
            Self::Send(send) => send.answer(Err(error)),
            Self::Add(add) => add.answer(Err(error)),
            Self::Alone(run) => run.refuse(error),
        }
    }
}

impl Advisory {
    /// Starts the workers.
    pub fn new(store: &Store, metrics: QueueMetrics, max_connections: usize, background: &Background) -> Self {
        let queues = Queues::new(metrics);
        workers::start(&queues, store, max_connections, background);
        Self { queues }
    }

    /// Does a command in a transaction of its own.
    pub(super) async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        self.queue(command, |waiting| Request::Alone(Box::new(waiting))).await
    }

    /// Does a command in a transaction that it may share.
    pub(super) async fn share<C: Queued>(&self, command: C) -> Result<C::Output, Error> {
        self.queue(command, C::into_request).await
    }

    async fn queue<C: Command>(
        &self,
        command: C,
        request: impl FnOnce(Waiting<C>) -> Request,
    ) -> Result<C::Output, Error> {
        let convo = command.convo().clone();
        let (waiting, answer): (_, oneshot::Receiver<_>) = Waiting::new(command);
        self.queues.push(&convo, request(waiting));
        match within_deadline(Duration::ZERO, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Code::InternalServerError.because("the request's worker failed; the log has the cause")),
            Err(_) => Err(unconfirmed()),
        }
    }
}
