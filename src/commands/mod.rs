//! Use cases that change something, as data: what to do, for whom, and how to recognise that it was done before.
//!
//! A command holds everything that must not differ between two attempts, such as new ids. Alone it moves or
//! holds the conversation's position first and looks afterwards, because only then is what it reads the present.

mod add_batch;
mod add_members;
mod claim_key_packages;
mod confirm_welcome;
mod create_convo;
mod invitation;
mod leave_convo;
mod once;
mod publish_key_package;
mod refusal;
mod send_batch;
mod send_message;
mod set_mailbox;
mod update_cursor;
mod update_read;

pub use add_batch::AddBatch;
pub use add_members::AddMembers;
pub use claim_key_packages::ClaimKeyPackages;
pub use confirm_welcome::ConfirmWelcome;
pub use create_convo::{CreateConvo, Created};
pub use invitation::Invitation;
pub use leave_convo::LeaveConvo;
pub use once::{Fingerprint, Once};
pub use publish_key_package::{PublishKeyPackage, Published};
pub use send_batch::SendBatch;
pub use send_message::{SendMessage, Sent};
pub use set_mailbox::SetMailbox;
pub use update_cursor::UpdateCursor;
pub use update_read::UpdateRead;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::store::{Abort, Batch, Command, Position, Reader};

/// Where a change of a conversation landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landed {
    /// The epoch afterwards.
    pub epoch: i64,
    /// The seq of the commit, or of the newest entry if there was no commit.
    pub seq: i64,
    /// It was done before, by the same request.
    #[serde(skip_serializing, default = "on_record")]
    pub repeated: bool,
}

impl Landed {
    /// The change was made just now.
    fn now(at: Position) -> Self {
        Self { epoch: at.epoch, seq: at.seq, repeated: false }
    }

    /// The change was made by the same request earlier.
    fn earlier(at: Position) -> Self {
        Self { repeated: true, ..Self::now(at) }
    }
}

/// What is read from the record of an earlier request is a repetition.
fn on_record() -> bool {
    true
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

/// Most members of one conversation.
pub const MAX_MEMBERS: i64 = 10_000;
