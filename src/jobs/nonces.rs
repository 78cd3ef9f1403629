//! Deletes used development tokens that have expired, and tokens that replicas of an earlier build have recorded.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time for which a record outlives its token: far longer than the clocks of replicas differ.
const MARGIN: TimeDelta = TimeDelta::hours(1);
/// Every request with such a token leaves a record, so records must not accumulate.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

pub(super) const JOB: Job =
    Job { name: "nonces", max_interval: Some(MAX_INTERVAL), age: |_| Some(MARGIN), work: Work::Pages(Table::Nonces) };
