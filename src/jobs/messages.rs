//! Deletes logs from their beginning: application messages by age, and among them the commits that every active member
//! has read. The read position (`members.last_read_seq`) starts where a member joined and moves when the member fetches
//! entries or marks them read. A member that never reads holds commits back for `COMMIT_HOLD_DAYS`; when it returns,
//! `firstEpoch` and `logStart` tell it that it must be added again.
//!
//! The newest entry always stays, because the next one must follow it. A deleted commit leaves a row in `retired_commits`,
//! by which the same bytes are recognised for ever. Concurrent writers are safe: new members join at the log's end, read
//! positions only move forward, and no row that writers share is touched.

use super::{Job, Work};

pub(super) const JOB: Job =
    Job { name: "messages", max_interval: None, age: |retention| retention.messages, work: Work::Logs };
