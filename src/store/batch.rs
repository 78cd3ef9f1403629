//! Batches: several commands in one transaction of a single statement. BEGIN, the locks, the statement and COMMIT go in one
//! flush, so it costs one round trip and holds its locks for no longer than PostgreSQL takes for it.
//!
//! A batch of many conversations takes those locks that are free and leaves the other conversations out. A batch of one conversation may
//! wait for its lock instead ([`Locks::Wait`]). It holds nothing else meanwhile, so those who wait cannot do so in a circle; and
//! PostgreSQL lets them in by order of arrival, so replicas that all write one conversation take turns with a batch each. When its turn
//! comes, it takes along what has arrived while it waited. That costs a second round trip under the lock, and saves whole turns.
//!
//! Its id is not known before COMMIT is sent, so where the answer is lost, PostgreSQL cannot be asked about it. A batch is made to
//! be sent again instead: what is in the log already it leaves out, to be done alone, where it finds itself. Alone waits for the
//! conversation's lock, or for its row, and so until the lost transaction has ended, if that has reached PostgreSQL. It may also be on
//! its way still, so as long as nobody knows, no refusal is given that it could belie ([`crate::serializer`]).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_postgres::error::SqlState;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::timing::{Stage, measure};

use super::changes::Topic;
use super::failure::{self, Abort, Cause};
use super::lanes::Lane;
use super::query::{Query, query};
use super::session::Params;
use super::write::{Done, Work};
use super::{ExclusiveMany, Store, Tx, deadline};

query! {
    TAKE = "tx/take" (TEXT_ARRAY, BOOL);
    WAIT = "tx/wait" (TEXT);
}

/// What became of a command in a batch.
#[derive(Debug, Clone)]
pub enum Landing<T> {
    /// It was done.
    Done(T),
    /// Nothing was done; it has to be looked at alone.
    Alone,
    /// Nothing was done, because another one in this batch stood in its way. It may be in the next.
    Later,
    /// Nothing was done, because somebody else is writing its conversation. It may be in the next batch, or in one that waits.
    Contended,
}

/// Commands on one or several conversations, each judged by itself, in one transaction of one statement. It finds out by itself what
/// was done already, since it may be sent again after a COMMIT without an answer.
pub trait Batch: Send + Sync + 'static {
    const NAME: &'static str;
    /// The only statement that [`Batch::execute`] runs, and runs first of all that it does.
    const STATEMENT: &'static Query;
    /// What a command is answered.
    type Output: Send + 'static;

    /// The conversation of each command.
    fn convos(&self) -> Vec<&ConvoId>;
    /// Whom what was done concerns.
    fn topics(&self, landed: &[Landing<Self::Output>]) -> Vec<Topic>;

    /// Returns what became of each command, in step with [`Batch::convos`].
    fn execute(&self, x: &ExclusiveMany<'_>) -> impl Future<Output = Result<Vec<Landing<Self::Output>>, Abort>> + Send;
}

/// How a batch comes to write its conversations alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// It takes those locks that are free.
    Try,
    /// It waits for the lock of its only conversation, for [`deadline::BATCH_LOCK`] at most.
    Wait,
    /// It takes none: it comes from the one actor of its only conversation. Should another replica write that meanwhile, the version
    /// of the row tells.
    None,
}

/// A batch on its way, and where it gets what has arrived since.
struct Together<B, M> {
    batch: Mutex<Arc<B>>,
    more: M,
    locks: Locks,
}

impl<B: Batch, M: Fn() -> Option<B> + Send + Sync> Together<B, M> {
    fn batch(&self) -> Arc<B> {
        // Nothing panics while it is held.
        self.batch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the lock of the only conversation, and takes along what has arrived until then. `None`: the wait has run out.
    async fn wait(&self, store: &Store, tx: &Tx) -> Result<Option<Turn>, Abort> {
        let begin = format!("{}set local lock_timeout = {};", store.begin(), deadline::BATCH_LOCK.as_millis());
        let batch = self.batch();
        let params: Params<'_> = &[&batch.convos().first().map(|convo| convo.as_str())];
        let waiting = Instant::now();
        let flushed = async {
            let (begun, held) = tokio::join!(biased; tx.session.simple(&begin), tx.session.rows(&WAIT, params));
            begun?;
            held
        };
        let flushed = measure(Stage::Lock, flushed);
        let Ok(held) = tokio::time::timeout(deadline::BATCH_LOCK + deadline::CONNECT, flushed).await else {
            tx.session.suspect_all();
            return Err(Abort::Again(Cause::Connection));
        };
        let held = match held {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                tx.session.simple("rollback").await?;
                tx.session.settle();
                return Ok(None);
            }
            held => held?,
        };
        store.metrics.lock_waited(waiting.elapsed());
        if let Some(larger) = (self.more)() {
            *self.batch.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(larger);
        }
        Ok(Some(Turn { was_free: held.first().expect("a select of functions returns one row").get("free") }))
    }
}

/// The lock that was waited for is held.
struct Turn {
    was_free: bool,
}

impl<B: Batch, M: Fn() -> Option<B> + Send + Sync> Work for Together<B, M> {
    const NAME: &'static str = B::NAME;
    const LANE: Lane = Lane::Write;
    type Output = Vec<Landing<B::Output>>;

    fn topics(&self, landed: &Vec<Landing<B::Output>>) -> Vec<Topic> {
        self.batch().topics(landed)
    }

    async fn attempt(&self, store: &Store, tx: Tx, _: Instant) -> Result<Done<Self::Output>, Abort> {
        let waits = self.locks == Locks::Wait;
        // What had to be prepared first would be overtaken by COMMIT.
        let statements = [if waits { &WAIT } else { &TAKE }, B::STATEMENT];
        let preparing = tx.prepare(&statements);
        let Ok(prepared) = tokio::time::timeout(deadline::CONNECT, preparing).await else {
            tx.session.suspect_all();
            return Err(Abort::Again(Cause::Connection));
        };
        prepared?;
        let turn = match waits {
            false => None,
            true => match self.wait(store, &tx).await? {
                None => return Ok(Done::new(Vec::new(), None)),
                turn => turn,
            },
        };
        let batch = self.batch();
        let of_each: Vec<&str> = batch.convos().into_iter().map(ConvoId::as_str).collect();
        let mut seen = HashSet::new();
        let convos: Vec<&str> = of_each.iter().copied().filter(|convo| seen.insert(*convo)).collect();
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
        let flushed = async { tokio::join!(biased; opening, batch.execute(&x), tx.session.simple("commit")) };
        let Ok((taken, done, committed)) = tokio::time::timeout(deadline::FLUSH, flushed).await else {
            tx.session.suspect_all();
            tx.session.abandon();
            return Err(Abort::Again(Cause::Unanswered));
        };
        let answered = match &committed {
            Ok(_) => true,
            Err(error) => error.as_db_error().is_some_and(|db| !failure::ends_connection(db.code())),
        };
        if !answered {
            tx.session.abandon();
            return Err(Abort::Again(Cause::Unanswered));
        }
        tx.session.settle();
        let taken = taken?;
        let mut landed = done?;
        committed?;
        if tx.failed() {
            return Err(Error::internal(format!("{} went on after a statement had failed", B::NAME)).into());
        }
        if self.locks == Locks::Try {
            let row = taken.first().expect("a select of functions returns one row");
            let held: HashSet<&str> = row.get::<_, Vec<&str>>("held").into_iter().collect();
            let left_out = of_each.iter().zip(&mut landed).filter(|(convo, _)| !held.contains(*convo));
            left_out.for_each(|(_, landing)| *landing = Landing::Contended);
        }
        let contended = turn.is_some_and(|turn| !turn.was_free);
        Ok(Done { contended, ..Done::new(landed, None) })
    }
}

impl Store {
    /// Runs a batch to its end, whether or not the caller stays. One that waits for its lock asks then what has arrived meanwhile: `more`
    /// returns a batch that goes on where it ended, which is done in its place. No landing at all: the wait has run out, and nothing was
    /// done.
    pub(crate) async fn batch<B: Batch>(
        &self,
        batch: B,
        locks: Locks,
        more: impl Fn() -> Option<B> + Send + Sync + 'static,
    ) -> Result<Done<Vec<Landing<B::Output>>>, Error> {
        self.to_the_end(Together { batch: Mutex::new(Arc::new(batch)), more, locks }).await
    }
}
