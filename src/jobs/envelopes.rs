//! Deletes envelopes that were delivered, and dead ones after [`RETENTION`]. Waiting envelopes stay.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time in which an operator can requeue dead envelopes.
const RETENTION: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "envelopes", max_interval: None, age: |_| Some(RETENTION), work: Work::Pages(Table::Envelopes) };
