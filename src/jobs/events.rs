//! Deletes events beside the log. A member may still return with a cursor from before an event. Each deletion therefore
//! moves `event_horizon` in the same transaction, by a trigger, and the cursor is then refused instead of skipping
//! deleted events. The same applies to entries ([`super::messages`]), each of which is its own event.

use super::{Job, Table, Work};

pub(super) const JOB: Job =
    Job { name: "events", max_interval: None, age: |retention| retention.events, work: Work::Pages(Table::Events) };
