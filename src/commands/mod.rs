//! Use cases that change something, as data: what to do, for whom, and how to recognise that it was done before.
//!
//! A command holds everything that must not differ between two attempts, such as new ids. Alone it moves or holds
//! the conversation's position first and looks afterwards, because only then is what it reads the present; what may share a transaction
//! ([`shared`]) is judged by the statement that does it.

mod add_batch;
mod add_members;
mod claim_key_packages;
mod confirm_welcome;
mod create_convo;
mod invitation;
mod leave_convo;
mod metrics;
mod once;
mod publish_key_package;
mod refusal;
mod repeatable;
mod send_batch;
mod send_message;
mod set_mailbox;
mod shared;
mod update_cursor;
mod update_read;

pub use add_batch::AddBatch;
pub use add_members::AddMembers;
pub use claim_key_packages::ClaimKeyPackages;
pub use confirm_welcome::ConfirmWelcome;
pub use create_convo::{CreateConvo, Created};
pub use invitation::Invitation;
pub use leave_convo::LeaveConvo;
pub use metrics::CommandMetrics;
pub use once::{Fingerprint, Once};
pub use publish_key_package::{PublishKeyPackage, Published};
pub(crate) use repeatable::Repeatable;
pub use send_batch::SendBatch;
pub use send_message::{SendMessage, Sent};
pub use set_mailbox::SetMailbox;
pub(crate) use shared::Shared;
pub use update_cursor::UpdateCursor;
pub use update_read::UpdateRead;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::store::Position;

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

/// Most members of one conversation.
pub const MAX_MEMBERS: i64 = 10_000;
