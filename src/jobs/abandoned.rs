//! Ends abandoned conversations: no entry and no change of the roster for a long time, and at most one member that was
//! ever active. These are conversations whose last member cannot leave, and those created with accounts that do not
//! exist. A conversation in which two members were active never ends by itself.
//!
//! First all members are removed, as if each had left; their streams report it. Then no more writes are possible, and
//! the rest is deleted [`ENDED_RETENTION`] later, in chunks, the conversation's row last. Its group id stays taken
//! (`ended_groups`). So do conversations that an operator has deleted or whose last member was erased ([`crate::admin`]): those have ended
//! already.

use chrono::TimeDelta;

use super::{Job, Work};

/// Time for which the rows of an ended conversation stay. Until then a returning client learns, from its cursor or the
/// reply, that it is no longer a member; later, that the conversation does not exist.
pub(super) const ENDED_RETENTION: TimeDelta = TimeDelta::days(30);

/// Age that no conversation reaches. Without `ABANDONED_AFTER_DAYS` none is abandoned, and those that an operator has ended are still deleted.
const NEVER: TimeDelta = TimeDelta::days(100 * 365);

pub(super) const JOB: Job = Job {
    name: "abandoned",
    max_interval: None,
    age: |retention| Some(retention.abandoned.unwrap_or(NEVER)),
    work: Work::Abandoned,
};
