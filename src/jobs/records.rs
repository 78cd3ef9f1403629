//! Deletes replies to requests with an idempotency key. They are kept as long as the messages that they refer to.

use super::{Job, Table, Work};

pub(super) const JOB: Job = Job {
    name: "records",
    at_least_every: None,
    age: |retention| retention.messages,
    work: Work::Pages(Table::Records),
};
