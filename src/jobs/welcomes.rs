//! Deletes the notes of opened Welcomes; their bytes were deleted when they were opened. Waiting Welcomes belong to
//! [`super::unopened`].

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time for which getWelcome reports that a Welcome was opened rather than that there is none.
const RETENTION: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "welcomes", max_interval: None, age: |_| Some(RETENTION), work: Work::Pages(Table::Welcomes) };
