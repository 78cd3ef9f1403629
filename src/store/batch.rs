//! Batches: commands of one kind in one transaction of a single statement. BEGIN, the locks, the statement and COMMIT go in one flush, so
//! a batch costs one round trip and holds its locks for no longer than PostgreSQL takes for it.
//!
//! A batch of many conversations takes those locks that are free ([`Locks::Try`]). A batch of one conversation may wait for its lock
//! ([`Locks::Wait`]); it then takes along the commands that have arrived meanwhile, for a second round trip.
//!
//! The id of its transaction is not known before COMMIT is sent. Where the reply is lost, the batch is sent again: its statement refuses
//! what is in the log already. As long as the outcome is unknown, no refusal is reported that a late COMMIT could contradict
//! ([`crate::batching`]). `docs/architecture.md` has the argument.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::timing::{Stage, measure};

use super::changes::Topic;
use super::failure::{self, Abort, Cause};
use super::lanes::Lane;
use super::query::{Query, query};
use super::refusal::{Refusal, Refused};
use super::session::{Params, Queries};
use super::unit_of_work::{Command, Done, UnitOfWork, topics};
use super::{ExclusiveMany, Position, Store, Tx, deadline};

query! {
    TAKE = "tx/take" (TEXT_ARRAY, BOOL);
    WAIT = "tx/wait" (TEXT);
}

/// A command that may share a transaction with others of its kind.
///
/// One SQL statement writes what commands of the kind write and holds every rule about it. A batch runs it for many commands, and
/// [`Command::execute`] runs it for one. A batch may refuse more than the command alone, never less, and answers and writes the same:
/// `commands/tests.rs` compares the two on random commands.
pub(crate) trait Batched: Command<Output: Clone> {
    /// Label of a batch's transaction in logs and metrics.
    const BATCH_NAME: &'static str;
    /// The statement. [`Batched::execute_batch`] runs no other, and runs it first.
    const STATEMENT: &'static Query;

    /// Runs the statement. Returns the outcome of each command, in order.
    fn execute_batch(
        x: &ExclusiveMany<'_>,
        commands: &[Arc<Self>],
    ) -> impl Future<Output = Result<Vec<BatchOutcome<Self::Output>>, Abort>> + Send;

    /// Returns the reply to a command that the statement refused: that of an earlier equal request, or the error. Errors:
    /// [`Abort::Again`] if the reason has passed, and the command has to run once more.
    fn refusal(&self, db: &impl Queries, refused: &Refused)
    -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// Outcome of one command of a batch.
#[derive(Debug, Clone)]
pub enum BatchOutcome<T> {
    /// It is committed, and the conversation stands at `at`.
    Committed { output: T, at: Position },
    /// The statement refused it. Nothing was written for it.
    Refused(Refused),
    /// Nothing was written for it, because of another command of this batch. The next batch may do it.
    Requeue,
    /// Nothing was written for it, because another replica writes its conversation. The next batch, or one that waits, may do it.
    Contended,
    /// Nothing was written for it. It has to run alone.
    RunAlone,
}

/// Way in which a batch gets the right to write its conversations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// It takes those locks that are free.
    Try,
    /// It waits for the lock of its only conversation, for [`deadline::BATCH_LOCK`] at most.
    Wait,
    /// It takes none: it comes from the one actor of its only conversation. If another replica writes that meanwhile, the version of the
    /// row shows it.
    None,
}

/// A batch, and the source of commands that have arrived since it began.
struct Batch<C, M> {
    commands: Mutex<Arc<Vec<Arc<C>>>>,
    more: M,
    locks: Locks,
}

impl<C: Batched, M: Fn() -> Option<Vec<Arc<C>>> + Send + Sync> Batch<C, M> {
    fn commands(&self) -> Arc<Vec<Arc<C>>> {
        // Nothing panics while it is held.
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the lock of the only conversation, then takes along the commands that have arrived. Returns whether the lock was free;
    /// `None` if the wait has run out.
    async fn wait(&self, store: &Store, tx: &Tx) -> Result<Option<bool>, Abort> {
        let begin = format!("{}set local lock_timeout = {};", store.begin(), deadline::BATCH_LOCK.as_millis());
        let commands = self.commands();
        let params: Params<'_> = &[&commands.first().map(|command| command.convo().as_str())];
        let waiting = Instant::now();
        let flushed = async {
            let (begun, held) = tokio::join!(biased; tx.session.simple(&begin), tx.session.rows(&WAIT, params));
            begun?;
            held
        };
        let flushed = measure(Stage::Lock, flushed);
        let Ok(held) = tokio::time::timeout(deadline::BATCH_LOCK + deadline::CONNECT, flushed).await else {
            tx.session.evict_idle();
            return Err(Abort::Again(Cause::Connection));
        };
        let held = match held {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                // A lock that is held for long would not be seen otherwise.
                store.metrics.lock_waited(waiting.elapsed());
                tx.session.simple("rollback").await?;
                tx.session.mark_clean();
                return Ok(None);
            }
            held => held?,
        };
        store.metrics.lock_waited(waiting.elapsed());
        if let Some(more) = (self.more)() {
            *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(more);
        }
        Ok(Some(held.first().expect("a select of functions returns one row").get("free")))
    }

    /// The outcome as the serializers see it: a refusal that is about this transaction, and not about the command, is none.
    fn outcome(&self, outcome: BatchOutcome<C::Output>) -> BatchOutcome<C::Output> {
        match outcome {
            BatchOutcome::Refused(Refused { refusal: Refusal::NotHeld, .. }) if self.locks != Locks::Try => {
                BatchOutcome::RunAlone
            }
            BatchOutcome::Refused(Refused { refusal: Refusal::NotHeld | Refusal::Moved, .. }) => {
                BatchOutcome::Contended
            }
            outcome => outcome,
        }
    }
}

impl<C: Batched, M: Fn() -> Option<Vec<Arc<C>>> + Send + Sync> UnitOfWork for Batch<C, M> {
    const NAME: &'static str = C::BATCH_NAME;
    const LANE: Lane = Lane::Write;
    type Output = Vec<BatchOutcome<C::Output>>;

    fn topics(&self, outcomes: &Self::Output) -> Vec<Topic> {
        let commands = self.commands();
        let committed =
            commands.iter().zip(outcomes).filter(|(_, outcome)| matches!(outcome, BatchOutcome::Committed { .. }));
        committed.flat_map(|(command, _)| topics(&**command)).collect()
    }

    async fn attempt(&self, store: &Store, tx: Tx, _: Instant) -> Result<Done<Self::Output>, Abort> {
        let waits = self.locks == Locks::Wait;
        // COMMIT would overtake a statement that had to be prepared first.
        let statements = [if waits { &WAIT } else { &TAKE }, C::STATEMENT];
        let preparing = tx.prepare(&statements);
        let Ok(prepared) = tokio::time::timeout(deadline::CONNECT, preparing).await else {
            tx.session.evict_idle();
            return Err(Abort::Again(Cause::Connection));
        };
        prepared?;
        let was_free = match waits {
            false => true,
            true => match self.wait(store, &tx).await? {
                None => return Ok(Done::new(Vec::new(), None)),
                Some(was_free) => was_free,
            },
        };
        let commands = self.commands();
        let mut seen = HashSet::new();
        let convos = commands.iter().map(|command| command.convo().as_str());
        let convos: Vec<&str> = convos.filter(|convo| seen.insert(*convo)).collect();
        let take: Params<'_> = &[&convos, &(self.locks == Locks::Try)];
        let x = ExclusiveMany { tx: &tx };
        let opening = async {
            if waits {
                return Ok(Vec::new());
            }
            // In this order: what is polled first is sent first. A statement that fails makes COMMIT a ROLLBACK.
            let taking = measure(Stage::Lock, tx.session.rows(&TAKE, take));
            let (begun, taken) = tokio::join!(biased; tx.session.simple(store.begin()), taking);
            begun?;
            taken
        };
        let flushed =
            async { tokio::join!(biased; opening, C::execute_batch(&x, &commands), tx.session.simple("commit")) };
        let Ok((opened, done, committed)) = tokio::time::timeout(deadline::FLUSH, flushed).await else {
            tx.session.evict_idle();
            tx.session.discard();
            return Err(Abort::Again(Cause::Unanswered));
        };
        let answered = match &committed {
            Ok(_) => true,
            Err(error) => error.as_db_error().is_some_and(|db| !failure::ends_connection(db.code())),
        };
        if !answered {
            tx.session.discard();
            return Err(Abort::Again(Cause::Unanswered));
        }
        tx.session.mark_clean();
        opened?;
        let outcomes = done?;
        committed?;
        if tx.failed() {
            return Err(Error::internal(format!("{} went on after a statement had failed", C::BATCH_NAME)).into());
        }
        let outcomes = outcomes.into_iter().map(|outcome| self.outcome(outcome)).collect();
        Ok(Done { contended: !was_free, ..Done::new(outcomes, None) })
    }
}

impl Store {
    /// Runs a batch to its end, whether or not the caller stays. One that waits for its lock calls `more` when it has it: that returns the
    /// commands to run in their place, which begin with the same ones. Returns no outcome at all if the wait has run out.
    pub(crate) async fn batch<C: Batched>(
        &self,
        commands: Vec<Arc<C>>,
        locks: Locks,
        more: impl Fn() -> Option<Vec<Arc<C>>> + Send + Sync + 'static,
    ) -> Result<Done<Vec<BatchOutcome<C::Output>>>, Error> {
        self.to_the_end(Batch { commands: Mutex::new(Arc::new(commands)), more, locks }).await
    }
}
