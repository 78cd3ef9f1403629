//! Deletes Welcomes that were never opened, with their rows, after the time for commits that are never read. The
//! invited account stays a member; to join the group it leaves and is added again.

use super::{Job, Table, Work};

pub(super) const JOB: Job = Job {
    name: "unopened_welcomes",
    max_interval: None,
    age: |retention| retention.unread,
    work: Work::Pages(Table::UnopenedWelcomes),
};
