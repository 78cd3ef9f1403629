//! Commands on their way to the database: each with its reply channel, and the limits that both serializers keep.
//!
//! [`run_batch`] runs commands of one kind in one transaction and answers those that it can. The rest is [`Unfinished`]: the serializer
//! queues it again, in the way that [`Next`] says.

use std::any::Any;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;
use tracing::{Instrument, Span};

use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::{
    Abort, BatchKind, BatchOutcome, Batched, Command, Done, Lane, LockMode, Locks, MAX_LOCK_WAIT, Position, Refused,
    Store, unconfirmed,
};
use crate::timing::{StageTimes, Timings};
use crate::trace::{OpenSpan, Part};

/// Most commands in one batch.
pub const MAX_BATCH: usize = 64;
/// Bytes from which on a batch gets no more commands.
pub const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Time after which a waiting command is refused with `Overloaded` and never run.
pub const MAX_WAIT: Duration = Duration::from_secs(6);
/// Time for which a conversation counts as contended after another replica was last found to write it. Much longer than a transaction.
pub const CONTENDED_FOR: Duration = Duration::from_millis(250);
/// The wait of a command for its turn.
const QUEUE: Part = Part::Stage("queue");
/// Refused commands that are answered at a time. Each reply may hold commits of some megabytes.
const MAX_REFUSALS_AT_ONCE: usize = 8;

/// A command with its reply channel, its arrival, and the request under which it is logged and timed.
pub(crate) struct Pending<C: Command> {
    pub command: Arc<C>,
    pub since: Instant,
    reply: oneshot::Sender<Result<C::Output, Error>>,
    pub span: Span,
    pub timings: Timings,
    /// Its wait in a queue or a mailbox.
    waiting: Option<OpenSpan>,
    /// A batch could not run it. It runs alone.
    alone: bool,
    /// It was in a transaction whose COMMIT got no reply, so no reply may say that nothing was changed.
    in_doubt: bool,
}

impl<C: Command> Pending<C> {
    /// A command of the request that this task works for, and the receiver of its reply.
    pub fn new(command: Arc<C>) -> (Self, oneshot::Receiver<Result<C::Output, Error>>) {
        let (reply, receiver) = oneshot::channel();
        let (span, timings) = (Span::current(), Timings::current());
        let (since, waiting) = (Instant::now(), timings.open(QUEUE));
        (Self { command, since, reply, span, timings, waiting, alone: false, in_doubt: false }, receiver)
    }

    /// Sends the reply. The client may be gone; what was committed stays so.
    pub fn answer(self, reply: Result<C::Output, Error>) {
        let in_doubt = self.in_doubt;
        let honest = |error: Error| if in_doubt && !is_final(&error) { unconfirmed() } else { error };
        let _ = self.reply.send(reply.map_err(honest));
    }
}

/// Returns whether a refusal holds even if an attempt without a reply is committed after it: the epoch is over for that one too, and the
/// id or the key belongs to another request.
fn is_final(error: &Error) -> bool {
    matches!(error.code, Code::EpochMismatch | Code::EpochExpired | Code::IdempotencyConflict)
}

/// A pending command of any type, in a queue or a mailbox.
pub(crate) trait Queued: Any + Send {
    /// The command's name.
    fn name(&self) -> &'static str;
    fn convo(&self) -> &ConvoId;
    /// The batches that it may be in; `None` if it runs alone.
    fn kind(&self) -> Option<BatchKind>;
    /// When it arrived.
    fn since(&self) -> Instant;
    /// Bytes that it adds to a batch.
    fn bytes(&self) -> usize;
    /// Refuses it without having run it.
    fn refuse(self: Box<Self>, error: Error);
    /// Runs it alone, and answers it unless the conversation has moved.
    fn run(self: Box<Self>, store: Store, mode: LockMode) -> Pin<Box<dyn Future<Output = Attempt> + Send>>;
}

/// Result of one run of a command.
pub(crate) enum Attempt {
    /// It is answered. The conversation stands here, if it was done and looked.
    Answered(Option<Position>),
    /// Nothing was done: the conversation is not where [`LockMode::Remembered`] says, but here.
    Moved(Position, Box<dyn Queued>),
}

impl<C: Command> Queued for Pending<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn convo(&self) -> &ConvoId {
        self.command.convo()
    }

    fn kind(&self) -> Option<BatchKind> {
        self.command.batch_kind().filter(|_| !self.alone)
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn bytes(&self) -> usize {
        self.command.bytes()
    }

    fn refuse(self: Box<Self>, error: Error) {
        self.answer(Err(error));
    }

    fn run(mut self: Box<Self>, store: Store, mode: LockMode) -> Pin<Box<dyn Future<Output = Attempt> + Send>> {
        self.waiting = None;
        let (timings, span) = (self.timings.clone(), self.span.clone());
        let run = async move {
            match store.run(self.command.clone(), mode).await {
                Err(Abort::Moved(at)) if mode != LockMode::Lock => Attempt::Moved(at, self),
                Err(abort) => {
                    self.answer(Err(abort.into()));
                    Attempt::Answered(None)
                }
                Ok(Done { output, at, .. }) => {
                    self.answer(Ok(output));
                    Attempt::Answered(at)
                }
            }
        };
        Box::pin(timings.scope(run).instrument(span))
    }
}

/// Returns those of some commands that are of one type, in order. A batch of a kind holds no others.
pub(crate) fn of_type<C: Command>(commands: Vec<Box<dyn Queued>>) -> Vec<Pending<C>> {
    let commands = commands.into_iter().map(|command| (command as Box<dyn Any>).downcast::<Pending<C>>());
    commands.filter_map(|command| command.ok().map(|command| *command)).collect()
}

/// Next step of a command that a batch did not do.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// It runs alone.
    Alone,
    /// It goes into the next batch.
    Requeue,
    /// It goes into another batch, which had better wait for its conversation: another replica writes that.
    Contended,
    /// It is answered with the reason ([`answer_refused`]).
    Refused(Refused),
}

/// A command that a batch did not do.
pub(crate) struct Unfinished<C: Command> {
    pub pending: Pending<C>,
    pub next: Next,
}

impl<C: Command> Unfinished<C> {
    /// Returns the command as it is queued again.
    pub fn into_queued(self) -> Box<dyn Queued> {
        let alone = matches!(self.next, Next::Alone | Next::Refused(_));
        let waiting = self.pending.timings.open(QUEUE);
        Box::new(Pending { alone, waiting, ..self.pending })
    }

    pub fn is_contended(&self) -> bool {
        matches!(self.next, Next::Contended)
    }
}

impl<C: Batched> Unfinished<C> {
    /// Returns whether [`answer_refused`] may answer it: it was refused, or its epoch may be over.
    pub fn may_be_answered(&self) -> bool {
        matches!(self.next, Next::Refused(_)) || self.pending.command.made_in().is_some()
    }
}

/// Result of a batch, whose committed commands are answered.
pub(crate) struct BatchResult<C: Command> {
    /// The latest position at which one of its commands was committed.
    pub at: Option<Position>,
    /// The other commands, in order.
    pub unfinished: Vec<Unfinished<C>>,
    /// It had to wait for the lock of its conversation.
    pub waited: bool,
}

impl<C: Command> Default for BatchResult<C> {
    fn default() -> Self {
        Self { at: None, unfinished: Vec::new(), waited: false }
    }
}

/// Runs a batch. Answers the commands that were committed, and those that have waited for too long for their conversation.
///
/// A batch that waits for a lock calls `arrivals` when it has it, with its size so far, and takes those commands along.
pub(crate) async fn run_batch<C: Batched>(
    store: &Store,
    commands: Vec<Pending<C>>,
    locks: Locks,
    arrivals: impl Fn(Size) -> Vec<Pending<C>> + Send + Sync + 'static,
) -> BatchResult<C> {
    let Some(first) = commands.first() else { return BatchResult::default() };
    let shared = first.timings.of_batch();
    let members = Members::new(commands);
    let batch = members.commands();
    let more = {
        let members = members.clone();
        move || members.grow(&arrivals).then(|| members.commands())
    };
    let result = shared.scope(store.batch(batch, locks, more)).await;
    let commands = members.part(&shared);
    let Done { output: outcomes, in_doubt, contended: waited, .. } = match result {
        Ok(done) => done,
        // PostgreSQL is away, and would be for each of them alone.
        Err(error) if error.code == Code::DatabaseUnavailable => {
            commands.into_iter().for_each(|command| command.answer(Err(error.clone())));
            return BatchResult::default();
        }
        // One of them waited for another transaction, or is a defect. A batch of one conversation narrows that down.
        Err(_) => {
            let next = if locks == Locks::Wait { Next::Alone } else { Next::Contended };
            let unfinished = commands.into_iter().map(|pending| Unfinished { pending, next: next.clone() }).collect();
            return BatchResult { unfinished, ..BatchResult::default() };
        }
    };
    let mut result = BatchResult { waited, ..BatchResult::default() };
    let outcomes = outcomes.into_iter().chain(std::iter::repeat_with(|| BatchOutcome::Contended));
    for (pending, outcome) in commands.into_iter().zip(outcomes) {
        let in_doubt = pending.in_doubt || in_doubt;
        let next = match outcome {
            BatchOutcome::Committed { output, at } => {
                result.at = result.at.filter(|last| last.seq > at.seq).or(Some(at));
                pending.answer(Ok(output));
                continue;
            }
            BatchOutcome::Requeue => Next::Requeue,
            BatchOutcome::RunAlone => Next::Alone,
            // It may be in the very transaction that it would wait for, or be refused because of. Alone it waits for the end of that one.
            BatchOutcome::Contended | BatchOutcome::Refused(_) if in_doubt => Next::Alone,
            BatchOutcome::Contended => Next::Contended,
            BatchOutcome::Refused(refused) => Next::Refused(refused),
        };
        let unfinished = Unfinished { pending: Pending { in_doubt, ..pending }, next };
        match unfinished.is_contended() && unfinished.pending.since.elapsed() > MAX_LOCK_WAIT {
            true => unfinished.pending.answer(Err(waited_too_long())),
            false => result.unfinished.push(unfinished),
        }
    }
    result
}

/// Answers by reads, without a lock and a few at a time, the commands that were refused and those whose epoch is over: the losers of an
/// epoch need not wait for each other. Returns the commands that have to be queued again, in order.
pub(crate) async fn answer_refused<C: Batched>(store: &Store, unfinished: Vec<Unfinished<C>>) -> Vec<Unfinished<C>> {
    if !unfinished.iter().any(Unfinished::may_be_answered) {
        return unfinished;
    }
    // The conversation waits for this, so it must not wait behind readers.
    let Ok(db) = store.reader_for(Lane::Write).await else { return unfinished };
    let mut positions = HashMap::new();
    for one in unfinished.iter().filter(|one| !matches!(one.next, Next::Refused(_)) && one.may_be_answered()) {
        let convo = one.pending.command.convo();
        if !positions.contains_key(convo) {
            let Ok(at) = db.position(convo).await else { continue };
            positions.insert(convo.clone(), at);
        }
    }
    let answering = unfinished.into_iter().map(async |one| {
        let command = one.pending.command.clone();
        let over = |at: &&Position| command.made_in().is_some_and(|epoch| epoch < at.epoch);
        let refused = match &one.next {
            Next::Refused(refused) => Some(refused.clone()),
            _ => positions.get(command.convo()).filter(over).map(|at| Refused::other_epoch(*at)),
        };
        let Some(refused) = refused else { return Some(one) };
        let (timings, span) = (one.pending.timings.clone(), one.pending.span.clone());
        match timings.scope(command.refusal(&db, &refused)).instrument(span).await {
            Ok(output) => one.pending.answer(Ok(output)),
            Err(Abort::Refused(error)) if error.code != Code::Overloaded => one.pending.answer(Err(error)),
            // The reason has passed, or the reads failed.
            Err(_) => return Some(Unfinished { next: Next::Alone, ..one }),
        }
        None
    });
    stream::iter(answering).buffered(MAX_REFUSALS_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// Size of a batch so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub commands: usize,
    pub bytes: usize,
}

/// The commands of one batch, in order. Others may join while it waits. Clones share them.
struct Members<C: Command>(Arc<Mutex<Vec<Member<C>>>>);

impl<C: Command> Clone for Members<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Member<C: Command> {
    pending: Pending<C>,
    /// When it joined, and the time that the batch's stages had taken by then.
    joined: Instant,
    missed: StageTimes,
}

impl<C: Command> Member<C> {
    fn new(mut pending: Pending<C>, missed: StageTimes) -> Self {
        pending.waiting = None;
        Self { pending, joined: Instant::now(), missed }
    }
}

impl<C: Command> Members<C> {
    fn new(commands: Vec<Pending<C>>) -> Self {
        let members = commands.into_iter().map(|pending| Member::new(pending, StageTimes::default()));
        Self(Arc::new(Mutex::new(members.collect())))
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member<C>>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn commands(&self) -> Vec<Arc<C>> {
        self.members().iter().map(|member| member.pending.command.clone()).collect()
    }

    /// Adds the commands that have arrived. Returns whether there were any.
    fn grow(&self, arrivals: impl Fn(Size) -> Vec<Pending<C>>) -> bool {
        let mut members = self.members();
        let bytes = members.iter().map(|member| member.pending.command.bytes()).sum();
        let (missed, before) = (Timings::current().so_far(), members.len());
        let arrived = arrivals(Size { commands: before, bytes });
        members.extend(arrived.into_iter().map(|pending| Member::new(pending, missed)));
        members.len() > before
    }

    /// Returns the commands, each charged with the time in which it was a member.
    fn part(self, shared: &Timings) -> Vec<Pending<C>> {
        let members = std::mem::take(&mut *self.members());
        let part = |Member { pending, joined, missed }| {
            let pending: Pending<C> = pending;
            pending.timings.add(shared, &missed, joined);
            pending
        };
        members.into_iter().map(part).collect()
    }
}

/// The reply to a command that has waited for too long.
pub(crate) fn waited_too_long() -> Error {
    Code::Overloaded.because("waited too long for other writers of this conversation; nothing was changed")
}

/// The reply to a command for which there is no room.
pub(crate) fn no_room(queue: &str) -> Error {
    Code::Overloaded.because(format!("too many requests are waiting for {queue}; nothing was changed"))
}
