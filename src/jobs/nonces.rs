//! Development tokens that were used and have died since, and what replicas of an earlier build have noted of others.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// How much longer than the token itself a record of it is kept: far more than the clocks of replicas are apart.
const MARGIN: TimeDelta = TimeDelta::hours(1);
/// Every request with such a token leaves a record, so they are not left to gather.
const AT_LEAST_EVERY: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "nonces",
    at_least_every: Some(AT_LEAST_EVERY),
    age: |_| Some(MARGIN),
    work: Work::Pages(Table::Nonces),
};
