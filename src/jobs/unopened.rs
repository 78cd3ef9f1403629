//! Welcomes that nobody opens, bytes and lines: they end as commits do that somebody never reads. Whoever was invited so stays a member;
//! to get into the group it leaves and is added again.

use super::{Job, Table, Work};

pub(super) const JOB: Job = Job {
    name: "unopened_welcomes",
    at_least_every: None,
    age: |retention| retention.unread,
    work: Work::Pages(Table::UnopenedWelcomes),
};
