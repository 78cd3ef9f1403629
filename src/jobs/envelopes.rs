//! Deletes envelopes that were delivered, and dead ones after [`KEPT`]. Waiting envelopes stay.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time in which an operator can requeue dead envelopes.
const KEPT: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "envelopes", at_least_every: None, age: |_| Some(KEPT), work: Work::Pages(Table::Envelopes) };
