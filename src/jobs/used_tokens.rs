//! Empties slots of used tokens of accounts and tickets. A slot covers ten minutes and is emptied once all its tokens
//! expired at least ten minutes ago, by PostgreSQL's clock. The counted deletions are slots. Development tokens belong
//! to [`super::nonces`].

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Work};

/// The interval at which a slot may become ready.
const MAX_INTERVAL: Duration = Duration::from_secs(600);

pub(super) const JOB: Job = Job {
    name: "used_tokens",
    max_interval: Some(MAX_INTERVAL),
    // The slots know their age (V025).
    age: |_| Some(TimeDelta::minutes(10)),
    work: Work::UsedTokens,
};
