//! Commands of different conversations in one transaction: they run side by side on one connection, so their statements share round
//! trips, and all of them share one BEGIN and one COMMIT.
//!
//! Either all of them are done or none is. Whoever is refused before anything was written, as who loses an epoch is, takes that answer
//! along and harms nobody. A later refusal undoes the others too: then it is done alone, and the others try again without it. Those
//! whose conversation is locked elsewhere are left out from the start.
//!
//! **No circle of waiters that lasts.** Locks are tried and never waited for. What belongs to one conversation is written by nobody
//! else who holds anything. What two conversations may have in common comes last and in one order for everybody who uses it up, for
//! which it is put off ([`Later`]): key packages by hash, then idempotency keys. Whoever takes such rows in another order (who claims
//! packages, who sweeps them) meets a transaction that waits for 50 ms at most (`tx/take`), long before PostgreSQL looks for deadlocks.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::try_join_all;

use crate::error::{Code, Error};
use crate::ids::ConvoId;

use super::changes::Topic;
use super::key_packages::{self, Use};
use super::requests::{self, NewRecord};
use super::tx::{Exclusive, Hold, Tx};
use super::write::{Command, Done, Opening, Steps, topics};
use super::{Abort, Store};

/// A command in a shared transaction, whatever it returns.
pub(crate) trait Shareable: Send + Sync {
    fn convo(&self) -> &ConvoId;
    /// Whom it concerns once it is committed.
    fn topics(&self) -> Vec<Topic>;
    fn execute<'a>(&'a self, tx: &'a Tx) -> Pin<Box<dyn Future<Output = Result<(), Abort>> + Send + 'a>>;
    /// Forgets what became of the attempt before.
    fn begin(&self);
    /// Whether it was this one that ended the last attempt.
    fn ended_it(&self) -> bool;
}

/// A command and the place for what its last attempt returned.
pub(crate) struct Slot<C: Command> {
    pub command: Arc<C>,
    outcome: Mutex<Option<Result<C::Output, Error>>>,
    ended_it: AtomicBool,
}

impl<C: Command> Slot<C> {
    pub fn new(command: Arc<C>) -> Self {
        Self { command, outcome: Mutex::new(None), ended_it: AtomicBool::new(false) }
    }

    fn outcome(&self) -> std::sync::MutexGuard<'_, Option<Result<C::Output, Error>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the command returned, if it ran. It is true only if the transaction was committed.
    pub fn take(&self) -> Option<Result<C::Output, Error>> {
        self.outcome().take()
    }
}

impl<C: Command> Shareable for Slot<C> {
    fn convo(&self) -> &ConvoId {
        self.command.convo()
    }

    fn topics(&self) -> Vec<Topic> {
        topics(&*self.command)
    }

    fn begin(&self) {
        self.ended_it.store(false, Ordering::Relaxed);
        *self.outcome() = None;
    }

    fn ended_it(&self) -> bool {
        self.ended_it.load(Ordering::Relaxed)
    }

    fn execute<'a>(&'a self, tx: &'a Tx) -> Pin<Box<dyn Future<Output = Result<(), Abort>> + Send + 'a>> {
        Box::pin(async move {
            let mut x = Exclusive::new(tx, self.command.convo(), Hold::Lock);
            let outcome = self.command.execute(&mut x).await;
            let harmless = !x.wrote && !tx.failed();
            let outcome = match outcome {
                Ok(output) => Ok(output),
                Err(Abort::Refused(error)) if harmless => Err(error),
                Err(abort) => {
                    self.ended_it.store(true, Ordering::Relaxed);
                    return Err(abort);
                }
            };
            *self.outcome() = Some(outcome);
            Ok(())
        })
    }
}

/// What is put off to the end of a shared transaction.
#[derive(Default)]
pub(super) struct Later(Mutex<PutOff>);

#[derive(Default)]
struct PutOff {
    uses: Vec<Use>,
    records: Vec<NewRecord>,
}

impl Later {
    fn put_off(&self) -> std::sync::MutexGuard<'_, PutOff> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn consume(&self, uses: Vec<Use>) {
        self.put_off().uses.extend(uses);
    }

    pub fn remember(&self, record: NewRecord) {
        self.put_off().records.push(record);
    }

    async fn catch_up(&self, tx: &Tx) -> Result<(), Abort> {
        let PutOff { mut uses, mut records } = std::mem::take(&mut *self.put_off());
        uses.sort_by_key(|used| used.hash);
        if uses.windows(2).any(|two| two[0].hash == two[1].hash) {
            return Err(Code::Overloaded.because("two requests at once named the same key package").into());
        }
        key_packages::consume_all(tx, &uses).await?;
        records.sort_by(|a, b| a.key().cmp(&b.key()));
        requests::insert_all(tx, &records).await
    }
}

/// Commands on their way into one transaction.
struct Shared(Vec<Arc<dyn Shareable>>);

impl Steps for Shared {
    const NAME: &'static str = "shared";
    /// Which of them were done.
    type Output = Vec<bool>;

    fn opening(&self) -> Opening<'_> {
        Opening::Try(self.0.iter().map(|command| command.convo().as_str()).collect())
    }

    fn topics(&self) -> Vec<Topic> {
        self.0.iter().flat_map(|command| command.topics()).collect()
    }

    async fn execute(&self, tx: &Tx) -> Result<Done<Vec<bool>>, Abort> {
        self.0.iter().for_each(|command| command.begin());
        let held = tx.held();
        let running = self.0.iter().map(async |command| {
            let ours = held.iter().any(|convo| convo == command.convo().as_str());
            if ours {
                command.execute(tx).await?;
            }
            Ok::<_, Abort>(ours)
        });
        let done = try_join_all(running).await?;
        tx.later().catch_up(tx).await?;
        Ok(Done::new(done, None))
    }
}

impl Store {
    /// Runs commands of different conversations to their end in one transaction, whether or not the caller stays; says which of
    /// them were done. The others, and all of them after an error, have left no trace.
    pub(crate) async fn share(&self, commands: Vec<Arc<dyn Shareable>>) -> Result<Vec<bool>, Error> {
        Ok(self.to_the_end(Shared(commands)).await?.output)
    }
}
