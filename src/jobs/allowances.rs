//! Deletes quota usage whose window is over.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// An account whose window is over is never read; it starts again at its next use.
const MARGIN: TimeDelta = TimeDelta::minutes(10);
/// Each invited DID has two accounts, so they must not accumulate.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "allowances",
    max_interval: Some(MAX_INTERVAL),
    age: |_| Some(MARGIN),
    work: Work::Pages(Table::Allowances),
};
