//! Logs, from their beginning: application messages by age alone; of the commits among them, those that every active member has read
//! past. What "read" means is the read position (`members.last_read_seq`), all that the server knows: it starts where a member
//! joined, and moves when the member fetches entries or says that it has read them. A member that never does holds commits back for
//! `COMMIT_HOLD_DAYS`; when it comes back, `firstEpoch` and `logStart` tell it that it has to be added anew.
//!
//! The newest entry always stays, because the next one has to follow it. A commit that goes leaves a line in `retired_commits`, by
//! which the same bytes are recognised for ever. A concurrent writer cannot be harmed: whoever joins meanwhile joins at the log's
//! end, read positions only move forward, and nothing here touches the row that writers share.

use super::{Job, Work};

pub(super) const JOB: Job =
    Job { name: "messages", at_least_every: None, age: |retention| retention.messages, work: Work::Logs };
