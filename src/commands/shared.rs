//! Commands that may share a transaction with others of their kind.

use std::sync::Arc;

use crate::error::{Code, Error};
use crate::store::{Abort, Batch, Command, Position, Reader};

use super::{AddBatch, AddMembers, Landed, SendBatch, SendMessage};

/// A command that may share a transaction with others of its kind.
pub(crate) trait Shared: Command {
    /// In step with the commands.
    type Batch: Batch<Output = Self::Output>;

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
