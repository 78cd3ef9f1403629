//! Batches: several commands in one transaction of a single statement. BEGIN, the locks, the statement and COMMIT go in one
//! flush, so it costs one round trip and holds its locks for no longer than PostgreSQL takes for it.
//!
//! A batch of many conversations takes those locks that are free and leaves the other conversations out. A batch of one conversation may
//! wait for its lock instead ([`Locks::Wait`]). It holds nothing else meanwhile, so those who wait cannot do so in a circle; and
//! PostgreSQL lets them in by order of arrival, so replicas that all write one conversation take turns with a batch each.
//!
//! Its id is not known before COMMIT is sent, so where the answer is lost, PostgreSQL cannot be asked about it. A batch is made to
//! be sent again instead: what is in the log already it leaves out, to be done alone, where it finds itself. Alone waits for the
//! conversation's lock, or for its row, and so until the lost transaction has ended, if that has reached PostgreSQL. It may also be on
//! its way still, so as long as nobody knows, no refusal is given that it could belie ([`crate::serializer`]).

use std::borrow::Cow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

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
    /// It waits for the lock of its only conversation, for [`deadline::BATCH_LOCK`] at most. When that runs out, everything in it is
    /// [`Landing::Contended`].
    Wait,
    /// It takes none: it comes from the one actor of its only conversation. Should another replica write that meanwhile, the version
    /// of the row tells.
    None,
}

struct Together<B>(B, Locks);

impl<B: Batch> Together<B> {
    /// BEGIN, the statement that comes to hold the conversations, and how long the answer to all of it is waited for.
    fn opening(&self, store: &Store) -> (Cow<'static, str>, &'static Query, Duration) {
        match self.1 {
            Locks::Wait => {
                let begin = format!("{}set local lock_timeout = {};", store.begin(), deadline::BATCH_LOCK.as_millis());
                (Cow::Owned(begin), &WAIT, deadline::BATCH_LOCK + deadline::FLUSH)
            }
            Locks::Try | Locks::None => (Cow::Borrowed(store.begin()), &TAKE, deadline::FLUSH),
        }
    }
}

impl<B: Batch> Work for Together<B> {
    const NAME: &'static str = B::NAME;
    const LANE: Lane = Lane::Write;
    type Output = Vec<Landing<B::Output>>;

    fn topics(&self, landed: &Vec<Landing<B::Output>>) -> Vec<Topic> {
        self.0.topics(landed)
    }

    async fn attempt(&self, store: &Store, tx: Tx, _: Instant) -> Result<Done<Self::Output>, Abort> {
        let Self(batch, locks) = self;
        let (begin, hold, time) = self.opening(store);
        // What had to be prepared first would be overtaken by COMMIT.
        let Ok(prepared) = tokio::time::timeout(deadline::CONNECT, tx.prepare(&[hold, B::STATEMENT])).await else {
            tx.session.suspect_all();
            return Err(Abort::Again(Cause::Connection));
        };
        prepared?;
        let of_each: Vec<&str> = batch.convos().into_iter().map(ConvoId::as_str).collect();
        let mut seen = HashSet::new();
        let convos: Vec<&str> = of_each.iter().copied().filter(|convo| seen.insert(*convo)).collect();
        let (take, wait): (Params<'_>, Params<'_>) = (&[&convos, &(*locks == Locks::Try)], &[&convos.first()]);
        let params = if *locks == Locks::Wait { wait } else { take };
        let (waiting, x) = (Instant::now(), ExclusiveMany { tx: &tx });
        let flushed = async {
            // In this order: what is polled first is sent first. A statement that fails makes COMMIT a ROLLBACK.
            tokio::join!(
                biased;
                tx.session.simple(&begin),
                async {
                    let held = measure(Stage::Lock, tx.session.rows(hold, params)).await;
                    (held, waiting.elapsed())
                },
                batch.execute(&x),
                tx.session.simple("commit"),
            )
        };
        let Ok((begun, (held, waited), done, committed)) = tokio::time::timeout(time, flushed).await else {
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
        begun?;
        let held = match held {
            // COMMIT has become a ROLLBACK. Where the transaction is in doubt, it still is for what an earlier attempt has sent.
            Err(error) if *locks == Locks::Wait && error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                return Ok(Done::new(of_each.iter().map(|_| Landing::Contended).collect(), None));
            }
            held => held?,
        };
        let mut landed = done?;
        committed?;
        if tx.failed() {
            return Err(Error::internal(format!("{} went on after a statement had failed", B::NAME)).into());
        }
        let row = held.first().expect("a select of functions returns one row");
        match locks {
            Locks::Try => {
                let held: HashSet<&str> = row.get::<_, Vec<&str>>("held").into_iter().collect();
                let left_out = of_each.iter().zip(&mut landed).filter(|(convo, _)| !held.contains(*convo));
                left_out.for_each(|(_, landing)| *landing = Landing::Contended);
            }
            Locks::Wait => store.metrics.lock_waited(waited),
            Locks::None => {}
        }
        let free = *locks != Locks::Wait || row.get("free");
        Ok(Done { contended: !free, ..Done::new(landed, None) })
    }
}

impl Store {
    /// Runs a batch to its end, whether or not the caller stays.
    pub(crate) async fn batch<B: Batch>(&self, batch: B, locks: Locks) -> Result<Done<Vec<Landing<B::Output>>>, Error> {
        self.to_the_end(Together(batch, locks)).await
    }
}
