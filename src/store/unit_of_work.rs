//! Units of work: what changes the database, and the one function that runs it, retries it and counts it.
//!
//! A unit of work runs in a task of its own on the store's runtime, so a client that goes away changes nothing about it: it is committed
//! or rolled back. An attempt is one transaction (`transaction.rs`, `batch.rs`). No attempt is retried after COMMIT was sent, unless
//! PostgreSQL says that it did not happen (`outcome.rs`), or the unit is a batch, which recognises what it has done.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::jitter;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::timing::{Stage, Timings, measure, within_deadline};
use crate::trace::Part;

use super::changes::Topic;
use super::failure::{self, Abort, Cause};
use super::lanes::Lane;
use super::metrics::LostCommit;
use super::pool::Store;
use super::transaction::Opening;
use super::{Exclusive, LockMode, Position, Tx, deadline};

/// Pause after the first failed attempt. It doubles with each, up to [`MAX_RETRY_DELAY`].
pub(super) const MIN_RETRY_DELAY: Duration = Duration::from_millis(10);
pub(super) const MAX_RETRY_DELAY: Duration = Duration::from_millis(500);
/// Most retries after a unique key was found taken. One is enough, unless a third request takes the key again.
const MAX_TAKEN: u32 = 2;

/// A use case that changes one conversation, as data. It may run more than once, so it holds everything that must not differ
/// between attempts, such as new ids.
pub trait Command: Send + Sync + 'static {
    /// The method's name: label of the transaction in logs and metrics.
    const NAME: &'static str;
    /// True if it creates its conversation. Then no other command can be waiting for it.
    const CREATES: bool = false;
    type Output: Send + 'static;

    fn convo(&self) -> &ConvoId;
    fn caller(&self) -> &Did;
    /// Returns whether it carries an MLS commit, of which each member has a budget.
    fn commits(&self) -> bool {
        false
    }
    /// People to notify once it is committed, beside those who follow the conversation.
    fn affected(&self) -> Vec<&Did> {
        Vec::new()
    }
    /// The batches that it may be in, if any.
    fn batch_kind(&self) -> Option<BatchKind> {
        None
    }
    /// The epoch without which it can never be accepted. Once it is over, no lock is needed to refuse the command.
    fn made_in(&self) -> Option<i64> {
        None
    }
    /// Bytes that it adds to a batch.
    fn bytes(&self) -> usize {
        0
    }
    /// Returns its events of the domain, for the metrics, once it is done.
    fn counts(&self, _output: &Self::Output) -> Counts {
        Counts::default()
    }

    /// Adds to an error of unknown outcome how the caller can learn the outcome, if sending the request again does not tell.
    fn explain(&self, error: Error) -> Error {
        error
    }

    /// Runs it alone, in a transaction of its own.
    fn execute(&self, x: &mut Exclusive<'_>) -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// Kind of commands that share transactions with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchKind {
    Messages,
    Commits,
}

/// Events of the domain that a command was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub groups: u64,
    pub members_added: usize,
    pub epochs: u64,
    pub resets: u64,
}

/// A transaction without a conversation's lock: key packages, cursors, sweeps.
pub trait Transaction: Send + Sync + 'static {
    const NAME: &'static str;
    /// The connections that it uses.
    const LANE: Lane = Lane::Write;
    type Output: Send + 'static;

    /// Names of those to notify once it is committed.
    fn affected(&self) -> Vec<&str> {
        Vec::new()
    }

    fn execute(&self, tx: &Tx) -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// Result of a committed unit of work.
pub struct Done<T> {
    pub output: T,
    /// Position at which it left the conversation, if it read that.
    pub at: Option<Position>,
    /// An attempt before the last one got no reply, and may have been committed too.
    pub in_doubt: bool,
    /// A batch had to wait for its lock ([`Locks::Wait`](super::Locks::Wait)).
    pub contended: bool,
}

impl<T> Done<T> {
    pub(super) fn new(output: T, at: Option<Position>) -> Self {
        Self { output, at, in_doubt: false, contended: false }
    }
}

/// A command, a batch, or a transaction without a conversation, as the retries see it.
pub(super) trait UnitOfWork: Sync {
    const NAME: &'static str;
    const LANE: Lane;
    type Output: Send;

    /// Topics to notify once it is committed.
    fn topics(&self, output: &Self::Output) -> Vec<Topic>;
    /// Runs one transaction, from BEGIN to COMMIT.
    fn attempt(
        &self,
        store: &Store,
        tx: Tx,
        deadline: Instant,
    ) -> impl Future<Output = Result<Done<Self::Output>, Abort>> + Send;
}

/// Topics to notify once a command is committed.
pub(super) fn topics<C: Command>(command: &C) -> Vec<Topic> {
    std::iter::once(command.convo().into()).chain(command.affected().into_iter().map(Topic::from)).collect()
}

struct Alone<C>(Arc<C>, LockMode);

impl<C: Command> UnitOfWork for Alone<C> {
    const NAME: &'static str = C::NAME;
    const LANE: Lane = Lane::Write;
    type Output = C::Output;

    fn topics(&self, _: &C::Output) -> Vec<Topic> {
        topics(&*self.0)
    }

    async fn attempt(&self, store: &Store, tx: Tx, deadline: Instant) -> Result<Done<C::Output>, Abort> {
        let Alone(command, mode) = self;
        let opening = match mode {
            LockMode::Lock => Opening::Lock(command.convo()),
            LockMode::Remembered(_) => Opening::Claim(command.convo()),
        };
        let execute = async {
            let mut x = Exclusive::new(&tx, command.convo(), *mode);
            let output = command.execute(&mut x).await?;
            Ok(Done::new(output, x.at))
        };
        let result = store.in_transaction(&tx, opening, deadline, execute).await?;
        store.end(Self::NAME, tx, result).await
    }
}

struct WithoutConvo<E>(E);

impl<E: Transaction> UnitOfWork for WithoutConvo<E> {
    const NAME: &'static str = E::NAME;
    const LANE: Lane = E::LANE;
    type Output = E::Output;

    fn topics(&self, _: &E::Output) -> Vec<Topic> {
        self.0.affected().into_iter().map(Topic::from).collect()
    }

    async fn attempt(&self, store: &Store, tx: Tx, deadline: Instant) -> Result<Done<E::Output>, Abort> {
        let execute = async { Ok(Done::new(self.0.execute(&tx).await?, None)) };
        let result = store.in_transaction(&tx, Opening::Free, deadline, execute).await?;
        store.end(Self::NAME, tx, result).await
    }
}

impl Store {
    /// Runs a command alone, to its end. Call it from a task that is never aborted ([`Store::detached`]).
    ///
    /// Errors: [`Abort::Refused`] or [`Abort::Taken`] with the client's error, or [`Abort::Moved`] when `mode` remembers a position that
    /// is no longer true. Never [`Abort::Again`].
    pub(crate) async fn run<C: Command>(&self, command: Arc<C>, mode: LockMode) -> Result<Done<C::Output>, Abort> {
        measure(Stage::Transaction, self.attempts(Alone(command, mode))).await
    }

    /// Runs a transaction without a conversation's lock to its end, whether or not the caller stays.
    pub(crate) async fn transact<E: Transaction>(&self, transaction: E) -> Result<E::Output, Error> {
        Ok(self.to_the_end(WithoutConvo(transaction)).await?.output)
    }

    pub(super) async fn to_the_end<W: UnitOfWork + Send + 'static>(&self, work: W) -> Result<Done<W::Output>, Error>
    where
        W::Output: 'static,
    {
        let store = self.clone();
        let work = async move { store.attempts(work).await.map_err(Error::from) };
        self.detached(measure(Stage::Transaction, work)).await
    }

    /// Runs work in a task of its own. It is finished even if the request is dropped, panics, or has to be answered before.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        use tracing::Instrument;
        let working = self.runtime.spawn(Timings::current().scope(work).in_current_span());
        match within_deadline(Duration::ZERO, working).await {
            Ok(Ok(result)) => result,
            // A panic's message may quote values; the log has its place.
            Ok(Err(_)) => Err(Error::internal("a unit of work panicked")),
            Err(_) => Err(failure::unconfirmed()),
        }
    }

    async fn attempts<W: UnitOfWork>(&self, work: W) -> Result<Done<W::Output>, Abort> {
        let _span = Timings::span(Part::Transaction(W::NAME));
        let start = Instant::now();
        let deadline = start + deadline::WRITE;
        let deadline = Timings::deadline().map_or(deadline, |until| deadline.min(until - deadline::ENDING));
        let (mut delay, mut taken, mut in_doubt) = (MIN_RETRY_DELAY, 0, false);
        let result = loop {
            let cause = match self.attempt(&work, deadline).await {
                Err(Abort::Again(cause)) => cause,
                Err(Abort::Taken(_)) if taken < MAX_TAKEN => {
                    taken += 1;
                    Cause::Taken
                }
                // It may have waited for what an earlier attempt has left running.
                Err(Abort::Refused(error)) if in_doubt && error.code == Code::Overloaded => Cause::Unanswered,
                settled => break settled,
            };
            in_doubt |= cause == Cause::Unanswered;
            self.metrics.transaction_retried(W::NAME, cause);
            if Instant::now() + delay >= deadline {
                break Err(Abort::Refused(Abort::Again(cause).into()));
            }
            // Half of the delay is fixed and half is random, so that units that collided do not collide again.
            let waiting = tokio::time::sleep(delay / 2 + delay.mul_f64(jitter() / 2.0));
            let _pause = Timings::span(Part::Stage("pause"));
            measure(Stage::Queue, waiting).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        };
        let result = match result {
            Ok(done) => {
                if in_doubt {
                    self.metrics.commit_recovered(LostCommit::SentAgain);
                }
                Ok(Done { in_doubt, ..done })
            }
            // The last attempt cannot know that the one before it changed nothing.
            Err(_) if in_doubt => Err(self.unconfirmed()),
            Err(abort) => Err(abort),
        };
        self.metrics.transaction(W::NAME, start.elapsed(), result.is_ok());
        if let Ok(done) = &result {
            self.changes.add_topics(work.topics(&done.output));
        }
        result
    }

    async fn attempt<W: UnitOfWork>(&self, work: &W, deadline: Instant) -> Result<Done<W::Output>, Abort> {
        let session = self.session(W::LANE).await?;
        session.mark_dirty();
        work.attempt(self, Tx::new(session), deadline).await
    }
}

#[cfg(test)]
#[path = "unit_of_work_tests.rs"]
mod tests;
