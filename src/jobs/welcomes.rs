//! Welcomes that were opened: their bytes went at once, and the note that they were goes later. Those that wait for a
//! member are [`super::unopened`]'s.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// For how long getWelcome says that a Welcome was opened, and not that there is none.
const KEPT: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "welcomes", at_least_every: None, age: |_| Some(KEPT), work: Work::Pages(Table::Welcomes) };
