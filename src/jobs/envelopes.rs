//! Envelopes that were handed over, and those that could not be and that nobody has asked for since. Those that wait stay.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// How long an operator has to put dead envelopes back.
const KEPT: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "envelopes", at_least_every: None, age: |_| Some(KEPT), work: Work::Pages(Table::Envelopes) };
