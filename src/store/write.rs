//! The write path: the one function that begins, locks, runs, commits, tries again, and finds out what became of a COMMIT
//! whose reply was lost.
//!
//! A unit of work runs in a task of its own on the store's runtime, so a client that goes away changes nothing about it: it
//! is finished or rolled back. A connection whose state is not known is thrown away. No attempt is repeated after COMMIT was
//! sent, unless PostgreSQL says that it did not happen, or the work is a batch ([`super::batch`]), which can be told from itself.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::clock::jitter;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::timing::{Stage, Timings, measure, within_deadline};

use super::changes::Topic;
use super::failure::{self, Abort, Cause};
use super::lanes::Lane;
use super::metrics::LostCommit;
use super::pool::Store;
use super::query::query;
use super::session::{Params, Queries};
use super::tx::Identity;
use super::{Exclusive, Hold, Position, Tx, deadline, incarnation};

query! {
    LOCK = "tx/lock" (TEXT);
    NAME = "tx/name" ();
    OUTCOME = "tx/outcome" (TEXT, INT4);
    HANGING = "tx/hanging" (FLOAT8);
}

/// The pause after the first failed attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How often a unique key may be found taken before that is the answer. Once would do, were it not for a third request that
/// takes it again.
const MOST_TAKEN: u32 = 2;

/// A use case that changes one conversation, as data. It may run more than once, so it holds everything that must not differ
/// between attempts, such as new ids.
pub trait Command: Send + Sync + 'static {
    /// The method's name: label of the transaction in logs and metrics.
    const NAME: &'static str;
    type Output: Send + 'static;

    fn convo(&self) -> &ConvoId;
    /// Who asked for it.
    fn caller(&self) -> &Did;
    /// Whether it brings an MLS commit, of which each member has a budget.
    fn commits(&self) -> bool {
        false
    }
    /// Who has to hear of it, beside those who follow the conversation.
    fn affected(&self) -> Vec<&Did> {
        Vec::new()
    }

    fn execute(&self, x: &mut Exclusive<'_>) -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// A use case that changes what belongs to one person.
pub trait Transaction: Send + Sync + 'static {
    const NAME: &'static str;
    /// Whose connections it uses.
    const LANE: Lane = Lane::Write;
    type Output: Send + 'static;

    /// Who has to hear of it.
    fn affected(&self) -> Vec<&str> {
        Vec::new()
    }

    fn execute(&self, tx: &Tx) -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// What a committed command returned, and where it left the conversation if it looked.
pub struct Done<T> {
    pub output: T,
    pub at: Option<Position>,
    /// An attempt before the last one got no answer, and may have been committed too.
    pub in_doubt: bool,
    /// Whether it had to wait for a batch's lock ([`Locks::Wait`](super::Locks::Wait)).
    pub contended: bool,
}

impl<T> Done<T> {
    pub(super) fn new(output: T, at: Option<Position>) -> Self {
        Self { output, at, in_doubt: false, contended: false }
    }
}

/// What a transaction begins with.
pub(super) enum Opening<'w> {
    /// Nothing but its name.
    Free,
    /// The lock of a conversation, for which it waits.
    Lock(&'w ConvoId),
}

/// A command, a transaction or a batch, to the write path.
pub(super) trait Work: Sync {
    const NAME: &'static str;
    const LANE: Lane;
    type Output: Send;

    /// Whom it concerns once it is committed.
    fn topics(&self, output: &Self::Output) -> Vec<Topic>;
    /// One transaction, from BEGIN to COMMIT.
    fn attempt(
        &self,
        store: &Store,
        tx: Tx,
        deadline: Instant,
    ) -> impl Future<Output = Result<Done<Self::Output>, Abort>> + Send;
}

/// Work in several steps, each of which looks at what the one before returned.
pub(super) trait Steps: Sync {
    const NAME: &'static str;
    const LANE: Lane;
    type Output: Send;

    fn opening(&self) -> Opening<'_>;
    fn topics(&self) -> Vec<Topic>;
    fn execute(&self, tx: &Tx) -> impl Future<Output = Result<Done<Self::Output>, Abort>> + Send;
}

impl<S: Steps> Work for S {
    const NAME: &'static str = S::NAME;
    const LANE: Lane = S::LANE;
    type Output = S::Output;

    fn topics(&self, _: &S::Output) -> Vec<Topic> {
        Steps::topics(self)
    }

    async fn attempt(&self, store: &Store, tx: Tx, deadline: Instant) -> Result<Done<S::Output>, Abort> {
        store.in_steps(self, tx, deadline).await
    }
}

/// Whom a command concerns once it is committed.
fn topics<C: Command>(command: &C) -> Vec<Topic> {
    std::iter::once(command.convo().into()).chain(command.affected().into_iter().map(Topic::from)).collect()
}

struct OnConvo<C>(Arc<C>, Hold);

impl<C: Command> Steps for OnConvo<C> {
    const NAME: &'static str = C::NAME;
    const LANE: Lane = Lane::Write;
    type Output = C::Output;

    fn opening(&self) -> Opening<'_> {
        match self.1 {
            Hold::Lock => Opening::Lock(self.0.convo()),
            Hold::Remembered(_) => Opening::Free,
        }
    }

    fn topics(&self) -> Vec<Topic> {
        topics(&*self.0)
    }

    async fn execute(&self, tx: &Tx) -> Result<Done<C::Output>, Abort> {
        let mut x = Exclusive::new(tx, self.0.convo(), self.1);
        let output = self.0.execute(&mut x).await?;
        Ok(Done::new(output, x.at))
    }
}

struct Alone<E>(E);

impl<T: Transaction> Steps for Alone<T> {
    const NAME: &'static str = T::NAME;
    const LANE: Lane = T::LANE;
    type Output = T::Output;

    fn opening(&self) -> Opening<'_> {
        Opening::Free
    }

    fn topics(&self) -> Vec<Topic> {
        self.0.affected().into_iter().map(Topic::from).collect()
    }

    async fn execute(&self, tx: &Tx) -> Result<Done<T::Output>, Abort> {
        Ok(Done::new(self.0.execute(tx).await?, None))
    }
}

impl Store {
    /// Runs a command to its end. Call it from a task that nobody aborts ([`Store::detached`]).
    ///
    /// Errors: [`Abort::Refused`] or [`Abort::Taken`] with what the client is told, or [`Abort::Moved`] when `hold` remembers
    /// a position that is no longer true. Never [`Abort::Again`].
    pub(crate) async fn run<C: Command>(&self, command: Arc<C>, hold: Hold) -> Result<Done<C::Output>, Abort> {
        measure(Stage::Transaction, self.attempts(OnConvo(command, hold))).await
    }

    /// Runs a transaction to its end, even if the caller disconnects.
    pub(crate) async fn transact<T: Transaction>(&self, transaction: T) -> Result<T::Output, Error> {
        Ok(self.to_the_end(Alone(transaction)).await?.output)
    }

    pub(super) async fn to_the_end<W: Work + Send + 'static>(&self, work: W) -> Result<Done<W::Output>, Error>
    where
        W::Output: 'static,
    {
        let store = self.clone();
        let work = async move { store.attempts(work).await.map_err(Error::from) };
        self.detached(measure(Stage::Transaction, work)).await
    }

    /// Runs work in a task of its own, so that neither a dropped request nor a panic leaves it half done, nor a request that has to be
    /// answered before it is done.
    pub(crate) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        use tracing::Instrument;
        let working = self.runtime.spawn(Timings::current().scope(work).in_current_span());
        match within_deadline(Duration::ZERO, working).await {
            Ok(Ok(result)) => result,
            // What a panic said may quote values; the log has where it happened.
            Ok(Err(_)) => Err(Error::internal("a unit of work panicked")),
            Err(_) => Err(failure::unconfirmed()),
        }
    }

    async fn attempts<W: Work>(&self, work: W) -> Result<Done<W::Output>, Abort> {
        let start = Instant::now();
        let deadline = start + deadline::WRITE;
        let deadline = Timings::deadline().map_or(deadline, |until| deadline.min(until - deadline::ENDING));
        let (mut pause, mut taken, mut in_doubt) = (FIRST_PAUSE, 0, false);
        let result = loop {
            let cause = match self.attempt(&work, deadline).await {
                Err(Abort::Again(cause)) => cause,
                Err(Abort::Taken(_)) if taken < MOST_TAKEN => {
                    taken += 1;
                    Cause::Taken
                }
                // What an earlier attempt has left running may be what this one had to wait for.
                Err(Abort::Refused(error)) if in_doubt && error.code == Code::Overloaded => Cause::Unanswered,
                settled => break settled,
            };
            in_doubt |= cause == Cause::Unanswered;
            self.metrics.transaction_retried(W::NAME, cause);
            if Instant::now() + pause >= deadline {
                break Err(Abort::Refused(Abort::Again(cause).into()));
            }
            // Half of the pause is fixed and half is random, so that those who collided do not meet again.
            let pausing = tokio::time::sleep(pause / 2 + pause.mul_f64(jitter() / 2.0));
            measure(Stage::Queue, pausing).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        let result = match result {
            Ok(done) => {
                if in_doubt {
                    self.metrics.commit_recovered(LostCommit::SentAgain);
                }
                Ok(Done { in_doubt, ..done })
            }
            // Whatever the last attempt says of itself, it cannot say that nothing was changed.
            Err(_) if in_doubt => Err(self.unconfirmed()),
            Err(abort) => Err(abort),
        };
        self.metrics.transaction(W::NAME, start.elapsed(), result.is_ok());
        if let Ok(done) = &result {
            self.changes.add_topics(work.topics(&done.output));
        }
        result
    }

    async fn attempt<W: Work>(&self, work: &W, deadline: Instant) -> Result<Done<W::Output>, Abort> {
        let session = self.session(W::LANE).await?;
        session.doubt();
        work.attempt(self, Tx::new(session), deadline).await
    }

    async fn in_steps<S: Steps>(&self, steps: &S, tx: Tx, deadline: Instant) -> Result<Done<S::Output>, Abort> {
        let outcome = tokio::time::timeout_at(deadline.into(), async {
            measure(Stage::Lock, self.open(&tx, steps.opening())).await?;
            steps.execute(&tx).await
        });
        let begun = Instant::now();
        let Ok(result) = outcome.await else {
            // Else it is the request that had no time left.
            if begun.elapsed() >= deadline::LOCK {
                tx.session.suspect_all();
            }
            return Err(failure::overloaded("the transaction").into());
        };
        if tx.identity.get().is_none() {
            // It was never opened. The connection is in doubt and goes with it.
            return result;
        }
        match result {
            Ok(done) if !tx.failed() => {
                measure(Stage::Commit, self.commit(tx)).await?;
                Ok(done)
            }
            Ok(_) => {
                self.roll_back(tx).await;
                Err(Error::internal(format!("{} went on after a statement had failed", S::NAME)).into())
            }
            Err(abort) => {
                self.roll_back(tx).await;
                Err(abort)
            }
        }
    }

    /// BEGIN and the locks in one flush. They are a statement of their own, before any read: a statement's snapshot is taken
    /// before a function inside it blocks.
    async fn open(&self, tx: &Tx, opening: Opening<'_>) -> Result<(), Abort> {
        let waiting = Instant::now();
        let begin = self.begin();
        // In this order: what is polled first is sent first.
        let flush = async |query, params: Params<'_>| tokio::join!(biased; tx.session.simple(begin), tx.session.rows(query, params));
        let flushed = async {
            let (begun, named) = match &opening {
                Opening::Free => flush(&NAME, &[]).await,
                Opening::Lock(convo) => flush(&LOCK, &[&convo.as_str()]).await,
            };
            begun?;
            named
        };
        match tokio::time::timeout(deadline::LOCK + deadline::CONNECT, flushed).await {
            Ok(Ok(rows)) => {
                let row = rows.first().expect("a select of functions returns one row");
                let Some(incarnation) = row.get("incarnation") else {
                    tx.session.simple("rollback").await?;
                    incarnation::renew(&tx.session).await?;
                    return Err(Abort::Again(Cause::Connection));
                };
                let _ = tx.identity.set(Identity { xid: row.get("xid"), incarnation });
                if matches!(opening, Opening::Lock(_)) {
                    self.metrics.lock_waited(waiting.elapsed());
                }
                Ok(())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => {
                tx.session.suspect_all();
                Err(failure::overloaded("waiting for the conversation's lock").into())
            }
        }
    }

    /// ROLLBACK, waited for, so that the connection goes back clean and the lock is free before the client hears of it.
    async fn roll_back(&self, tx: Tx) {
        if let Ok(Ok(_)) = tokio::time::timeout(deadline::COMMIT, tx.session.simple("rollback")).await {
            tx.session.settle();
        }
    }

    async fn commit(&self, tx: Tx) -> Result<(), Abort> {
        match tokio::time::timeout(deadline::COMMIT, tx.session.simple("commit")).await {
            Ok(Ok(_)) => {
                tx.session.settle();
                Ok(())
            }
            // PostgreSQL refused, and says so: nothing was written.
            Ok(Err(error)) if error.as_db_error().is_some_and(|db| !failure::ends_connection(db.code())) => {
                Err(error.into())
            }
            // No reply, or one that says only that the server is going away: it may have happened.
            _ => {
                let Tx { session, identity, .. } = tx;
                session.abandon();
                self.find_out(&identity.into_inner().expect("it was opened before it was committed")).await
            }
        }
    }

    /// What became of a transaction whose COMMIT was sent and not answered.
    async fn find_out(&self, tx: &Identity) -> Result<(), Abort> {
        let deadline = Instant::now() + deadline::OUTCOME;
        let mut pause = FIRST_PAUSE;
        while Instant::now() < deadline {
            match self.outcome(tx).await {
                Some(Outcome::Committed) => {
                    self.metrics.commit_recovered(LostCommit::Committed);
                    return Ok(());
                }
                Some(Outcome::Aborted) => {
                    self.metrics.commit_recovered(LostCommit::RolledBack);
                    return Err(Abort::Again(Cause::RolledBack));
                }
                Some(Outcome::Forgotten) => break,
                Some(Outcome::InProgress) | None => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Err(self.unconfirmed())
    }

    /// Whether PostgreSQL has COMMITs that nobody waits for any more.
    pub(super) async fn commits_hang(&self) -> Result<bool, Error> {
        let reader = self.reader_for(Lane::Vital).await?;
        let row = reader.find(&HANGING, &[&deadline::COMMIT.as_secs_f64()]).await?;
        Ok(row.is_some_and(|row| row.get("hanging")))
    }

    fn unconfirmed(&self) -> Abort {
        self.metrics.commit_recovered(LostCommit::Unknown);
        failure::unconfirmed().into()
    }

    async fn outcome(&self, tx: &Identity) -> Option<Outcome> {
        let session = self.session(Lane::Vital).await.ok()?;
        session.doubt();
        let (query, params): (_, Params<'_>) = (&OUTCOME, &[&tx.xid, &tx.incarnation]);
        match tokio::time::timeout(deadline::CONNECT, session.rows(query, params)).await {
            Ok(Ok(rows)) => {
                session.settle();
                let row = rows.first()?;
                Some(match row.get::<_, Option<&str>>("status") {
                    Some("committed") if row.get("same_id") => Outcome::Committed,
                    // Perhaps another transaction of the same id. If this one has committed, the same request finds that.
                    Some("committed") => Outcome::Forgotten,
                    // Had this one committed, its id would not have been given out again: so it has not.
                    Some("aborted") => Outcome::Aborted,
                    Some(_) => Outcome::InProgress,
                    None => Outcome::Forgotten,
                })
            }
            // An id from the future: another server answers now, one that never saw this transaction.
            Ok(Err(error)) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Some(Outcome::Forgotten),
            _ => None,
        }
    }
}

/// What PostgreSQL says about a transaction (`pg_xact_status`, PostgreSQL manual 9.27.5).
enum Outcome {
    Committed,
    Aborted,
    InProgress,
    Forgotten,
}

#[cfg(test)]
mod tests;
