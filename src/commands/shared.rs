//! Commands that may share a transaction with others of their kind, and what becomes of each.

use std::sync::Arc;

use crate::error::{Code, Error};
use crate::store::{Abort, Batch, Command, Position, Reader};

use super::{AddBatch, AddMembers, Landed, SendBatch, SendMessage};

/// What became of a command in a batch.
#[derive(Debug, Clone)]
pub enum Landing<T> {
    /// It was done.
    Done(T),
    /// Nothing was done; it has to be looked at alone.
    Alone,
    /// Nothing was done, because another one in this batch stood in its way. It may be in the next.
    Later,
}

/// A command that may share a transaction with others of its kind.
pub(crate) trait Shared: Command {
    /// One place in the output for each command, in step.
    type Batch: Batch<Output = Vec<Landing<Self::Output>>>;

    fn together(commands: Vec<Arc<Self>>) -> Self::Batch;

    /// How many bytes it adds to the transaction.
    fn bytes(&self) -> usize;

    /// What it is answered if that is certain without a lock, where the conversation stands at `at`.
    fn settled(&self, _db: &Reader, _at: Position) -> impl Future<Output = Option<Result<Self::Output, Error>>> + Send {
        std::future::ready(None)
    }
}

impl Shared for SendMessage {
    type Batch = SendBatch;

    fn together(messages: Vec<Arc<Self>>) -> SendBatch {
        SendBatch { messages }
    }

    fn bytes(&self) -> usize {
        self.message.ciphertext.len()
    }
}

impl Shared for AddMembers {
    type Batch = AddBatch;

    fn together(adds: Vec<Arc<Self>>) -> AddBatch {
        AddBatch { adds }
    }

    fn bytes(&self) -> usize {
        self.commit.as_ref().map_or(0, |commit| commit.bytes.len())
            + self.invitation.welcome.as_ref().map_or(0, |welcome| welcome.bytes.len())
    }

    async fn settled(&self, db: &Reader, at: Position) -> Option<Result<Landed, Error>> {
        match self.lost(db, at).await {
            Ok(answer) => answer.map(Ok),
            Err(Abort::Refused(error)) if error.code != Code::Overloaded => Some(Err(error)),
            // It can be looked at again, under the lock.
            Err(_) => None,
        }
    }
}
