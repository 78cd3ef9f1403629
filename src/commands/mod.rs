//! Use cases that change something, as data: what to do, for whom, and how to recognise that it was done before.
//!
//! A command holds everything that must not differ between two attempts, such as new ids. One that may be in a batch
//! ([`Batched`](crate::store::Batched)) is a single SQL statement, which judges and writes it, alone and in a batch. Any other moves or
//! locks the conversation's position first and reads afterwards, because only then is what it reads the present.

mod claim_addition;
mod claim_key_packages;
mod confirm_welcome;
mod create_convo;
mod delete_convo;
mod delete_device;
mod erase_member;
mod erase_person;
mod idempotency;
mod invitation;
mod leave_convo;
mod metrics;
mod publish_key_package;
mod publish_key_packages;
mod refusal;
mod register_device;
mod replayable;
mod report_commit;
mod request_group_info;
mod request_readdition;
mod reset_convo;
mod send_message;
mod set_mailbox;
mod submit_commit;
mod sync_key_packages;
mod update_cursor;
mod update_group_info;
mod update_read;
mod upload_blob;

pub use claim_addition::{ClaimAddition, ClaimedAddition};
pub use claim_key_packages::claim_key_packages;
pub use confirm_welcome::ConfirmWelcome;
pub use create_convo::{CreateConvo, Created};
pub use delete_convo::DeleteConvo;
pub use delete_device::DeleteDevice;
pub use erase_member::{EraseMember, Erased};
pub use erase_person::{EraseMailboxes, ErasePerson};
pub use idempotency::{Fingerprint, Idempotency};
pub use invitation::Invitation;
pub use leave_convo::LeaveConvo;
pub use metrics::CommandMetrics;
pub use publish_key_package::{Offer, PublishKeyPackage};
pub use publish_key_packages::{ItemRefusal, MAX_AVAILABLE, PublishKeyPackages};
pub use register_device::{RegisterDevice, refuse_package};
pub(crate) use replayable::Replayable;
pub use report_commit::{ReportCommit, Reported};
pub use request_group_info::RequestGroupInfo;
pub use request_readdition::{RejoinPackage, RequestReaddition};
pub use reset_convo::{Prior, ResetConvo};
pub use send_message::SendMessage;
pub use set_mailbox::SetMailbox;
pub use submit_commit::{Arrival, SubmitCommit};
pub use sync_key_packages::SyncKeyPackages;
pub use update_cursor::UpdateCursor;
pub use update_group_info::UpdateGroupInfo;
pub use update_read::UpdateRead;
pub use upload_blob::{AbortBlob, BeginBlob, BeginBody, BeginPart, StoreBlob, StorePart};

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::store::Position;

/// Position at which a change of a conversation was accepted, now or by an earlier equal request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Number of the group that the commit is of. `None` without a commit, or if an earlier build accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The epoch afterwards.
    pub epoch: i64,
    /// The seq of the commit, or of the newest entry if there was no commit.
    pub seq: i64,
    /// It was accepted before, by an equal request.
    #[serde(skip_serializing, default = "on_record")]
    pub replayed: bool,
}

impl Accepted {
    /// Accepted by this request.
    fn now(at: Position) -> Self {
        Self { generation: None, epoch: at.epoch, seq: at.seq, replayed: false }
    }

    /// Accepted by an earlier equal request.
    fn replayed(at: Position) -> Self {
        Self { replayed: true, ..Self::now(at) }
    }
}

/// The value of `replayed` in a reply that is read from a record.
fn on_record() -> bool {
    true
}

/// Most members of one conversation.
pub const MAX_MEMBERS: i64 = 10_000;
