//! Conversations that nobody comes back to: nothing was written for long, nobody joined or left, and at most one of the members was ever
//! there. That is one whose last member cannot leave it, and one that was made with people who do not exist. A conversation of
//! two who have been there never ends of itself, however silent it is.
//!
//! First all members are let go, as if each had left; streams that they follow say so. Then nobody can write any more, and what is left is
//! deleted [`LINGER`] later, a portion at a time, its row last. Its group id stays taken (`ended_groups`).

use chrono::TimeDelta;

use super::{Job, Work};

/// How long the rows of a conversation stay after it has ended: a client that was away is still told, by its cursor, or that it is no
/// member any more, and after that that there is no such conversation.
pub(super) const LINGER: TimeDelta = TimeDelta::days(30);

pub(super) const JOB: Job =
    Job { name: "abandoned", at_least_every: None, age: |retention| retention.abandoned, work: Work::Abandoned };
