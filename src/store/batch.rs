//! Batches: several conversations in one transaction of a single statement. BEGIN, the locks, the statement and COMMIT go in one
//! flush, so it costs one round trip and holds its locks for no longer than PostgreSQL takes for it.
//!
//! Its id is not known before COMMIT is sent, so where the answer is lost, PostgreSQL cannot be asked about it. A batch is made to
//! be sent again instead: what is in the log already it leaves out, to be done alone, where it finds itself. Alone waits for the
//! conversation's lock, or for its row, and so until the lost transaction has ended, if that has reached PostgreSQL. It may also be on
//! its way still, so as long as nobody knows, no refusal is given that it could belie ([`crate::serializer`]).

use std::time::Instant;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::timing::{Stage, measure};

use super::changes::Topic;
use super::failure::{self, Abort, Cause};
use super::query::{Query, query};
use super::session::Params;
use super::write::{Done, Work};
use super::{ExclusiveMany, Store, Tx, deadline};

query! {
    TAKE = "tx/take" (TEXT_ARRAY, BOOL);
}

/// A use case that changes several conversations, each by itself, in one transaction of one statement. It finds out by itself what
/// was done already, since it may be sent again after a COMMIT without an answer.
pub trait Batch: Send + Sync + 'static {
    const NAME: &'static str;
    /// The only statement that [`Batch::execute`] runs, and runs first of all that it does.
    const STATEMENT: &'static Query;
    type Output: Send + 'static;

    /// The conversations, without duplicates.
    fn convos(&self) -> Vec<&ConvoId>;
    /// Whom what was done concerns.
    fn topics(&self, output: &Self::Output) -> Vec<Topic>;

    fn execute(&self, x: &ExclusiveMany<'_>) -> impl Future<Output = Result<Self::Output, Abort>> + Send;
}

/// How a batch comes to write its conversations alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locks {
    /// It takes those locks that are free.
    Try,
    /// It takes none: it comes from the one actor of its only conversation. Should another replica write that meanwhile, the version
    /// of the row tells.
    None,
}

struct Together<B>(B, Locks);

impl<B: Batch> Work for Together<B> {
    const NAME: &'static str = B::NAME;
    type Output = B::Output;

    fn topics(&self, output: &B::Output) -> Vec<Topic> {
        self.0.topics(output)
    }

    async fn attempt(&self, store: &Store, tx: Tx, _: Instant) -> Result<Done<B::Output>, Abort> {
        // What had to be prepared first would be overtaken by COMMIT.
        let Ok(prepared) = tokio::time::timeout(deadline::CONNECT, tx.prepare(&[&TAKE, B::STATEMENT])).await else {
            tx.session.suspect_all();
            return Err(Abort::Again(Cause::Connection));
        };
        prepared?;
        let Self(batch, locks) = self;
        let convos: Vec<&str> = batch.convos().into_iter().map(ConvoId::as_str).collect();
        let take: Params<'_> = &[&convos, &(*locks == Locks::Try)];
        let (begin, x) = (store.begin(), ExclusiveMany { tx: &tx });
        let flushed = async {
            // In this order: what is polled first is sent first. A statement that fails makes COMMIT a ROLLBACK.
            tokio::join!(
                biased;
                tx.session.simple(&begin),
                measure(Stage::Lock, tx.session.rows(&TAKE, take)),
                batch.execute(&x),
                tx.session.simple("commit"),
            )
        };
        let Ok((begun, taken, done, committed)) = tokio::time::timeout(deadline::FLUSH, flushed).await else {
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
        taken?;
        let output = done?;
        committed?;
        match tx.failed() {
            true => Err(Error::internal(format!("{} went on after a statement had failed", B::NAME)).into()),
            false => Ok(Done::new(output, None)),
        }
    }
}

impl Store {
    /// Runs a batch to its end, whether or not the caller stays.
    pub(crate) async fn batch<B: Batch>(&self, batch: B, locks: Locks) -> Result<Done<B::Output>, Error> {
        self.to_the_end(Together(batch, locks)).await
    }
}
