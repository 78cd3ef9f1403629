//! What requests with an idempotency key got: kept as long as the messages that they may answer with.

use super::{Job, Table, Work};

pub(super) const JOB: Job = Job {
    name: "records",
    at_least_every: None,
    age: |retention| retention.messages,
    work: Work::Pages(Table::Records),
};
