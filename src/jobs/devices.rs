//! Tells members of devices that were registered or deleted, where the request that did so could not finish, because its replica died or
//! the owner has very many conversations. The devices themselves know how far this is (`devices.announced_to`).

use std::time::Duration;

use chrono::TimeDelta;

use super::{Job, Work};

/// The interval at which devices are looked for.
const MAX_INTERVAL: Duration = Duration::from_secs(5);

pub(super) const JOB: Job =
    Job { name: "devices", max_interval: Some(MAX_INTERVAL), age: |_| Some(TimeDelta::zero()), work: Work::Devices };
