//! Deletes old reports of commits.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time for which a report is kept.
const RETENTION: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job = Job {
    name: "commit_reports",
    max_interval: None,
    age: |_| Some(RETENTION),
    work: Work::Pages(Table::CommitReports),
};
