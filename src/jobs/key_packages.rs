//! Key packages that are of no more use: expired ones that were never issued go, of the issued ones the hash and the owner
//! stay, and nobody else's name.

use chrono::TimeDelta;

use super::{Job, Table, Work};

/// How long a package is kept after its end: nobody's clock decides.
const MARGIN: TimeDelta = TimeDelta::days(1);

pub(super) const JOB: Job =
    Job { name: "key_packages", at_least_every: None, age: |_| Some(MARGIN), work: Work::Pages(Table::KeyPackages) };
