//! What was used of quotas in windows that are over.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Nobody reads an account whose window is over; it begins anew when it is used.
const MARGIN: TimeDelta = TimeDelta::minutes(10);
/// Each person that is named has two accounts, so they are not left to gather.
const AT_LEAST_EVERY: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "allowances",
    at_least_every: Some(AT_LEAST_EVERY),
    age: |_| Some(MARGIN),
    work: Work::Pages(Table::Allowances),
};
