//! Deletes key packages that are no longer useful: expired ones that were never issued. Of issued ones only the hash
//! and the owner stay.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// Time for which a package is kept after its expiry, so that no clock difference matters.
const MARGIN: TimeDelta = TimeDelta::days(1);

pub(super) const JOB: Job =
    Job { name: "key_packages", max_interval: None, age: |_| Some(MARGIN), work: Work::Pages(Table::KeyPackages) };
