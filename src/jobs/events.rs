//! Events beside the log.

use super::{Job, Table, Work, ago};

pub(super) const JOB: Job = Job {
    name: "events",
    at_least_every: None,
    cutoff: |retention, now| ago(now, retention.events?),
    work: Work::Pages(Table::Events),
};
