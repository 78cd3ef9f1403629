//! Deletes quota usage whose window is over.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// An account whose window is over is never read; it starts again at its next use.
const MARGIN: TimeDelta = TimeDelta::minutes(10);
/// Each invited DID has two accounts, so they must not accumulate.
const AT_LEAST_EVERY: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "allowances",
    at_least_every: Some(AT_LEAST_EVERY),
    age: |_| Some(MARGIN),
    work: Work::Pages(Table::Allowances),
};
