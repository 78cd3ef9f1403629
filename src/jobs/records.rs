//! Deletes replies to requests with an idempotency key. They are kept as long as the messages that they refer to.

use super::{Job, Table, Work};

pub(super) const JOB: Job =
    Job { name: "records", max_interval: None, age: |retention| retention.messages, work: Work::Pages(Table::Records) };
