//! Events beside the log. A member that has not been sent one may still come back with a cursor from before it, so deleting any moves
//! `event_horizon` in the same transaction, by trigger, and that cursor is refused instead of passing over what is gone. The same
//! holds for entries ([`super::messages`]), each of which is its own event.

use super::{Job, Table, Work};

pub(super) const JOB: Job =
    Job { name: "events", at_least_every: None, age: |retention| retention.events, work: Work::Pages(Table::Events) };
