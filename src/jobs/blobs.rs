//! Deletes blobs to which no message refers: uploads that were not completed, blobs that no message named within an hour, and those whose last
//! message was deleted. Their rows go first and leave the names of their objects in `blob_deletions`. Then the bytes of all those objects
//! are deleted from the blob store. If that fails, the names are still there for the next pass. They stay for an hour, in which each pass
//! deletes the bytes again, because an upload may have been running when its row was deleted.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Work};

/// The interval at which blobs are looked for.
const MAX_INTERVAL: Duration = Duration::from_secs(300);

/// Each blob's row says when it expires.
pub(super) const JOB: Job =
    Job { name: "blobs", max_interval: Some(MAX_INTERVAL), age: |_| Some(TimeDelta::zero()), work: Work::Blobs };
