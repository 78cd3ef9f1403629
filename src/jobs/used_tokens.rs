//! Used tokens of accounts and tickets: slots of ten minutes each, emptied whole when everything in them has been dead for ten minutes at
//! least, by PostgreSQL's clock. What is counted as deleted is slots. Development tokens are [`super::nonces`]'.

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Work};

/// As often as a slot may become ready.
const AT_LEAST_EVERY: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "used_tokens",
    at_least_every: Some(AT_LEAST_EVERY),
    // The slots know themselves (V025).
    age: |_| Some(TimeDelta::minutes(10)),
    work: Work::UsedTokens,
};
