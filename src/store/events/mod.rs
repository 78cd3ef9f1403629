//! Event rows, and reads for the event tail and the streams. [`crate::events`] decides who may see what, unless a query
//! says that it does.

mod moment;
mod reads;
mod rows;
mod writes;

pub use moment::{CursorIncarnation, Key, Moment, Present, Seen};
pub use reads::{Attachment, Entries, MAX_PAGE_ENTRIES, News, RosterEntry};
pub use rows::{EventPayload, EventRow};
pub use writes::{LOW_KEY_PACKAGES, ReadTo};

pub(super) use moment::key;
pub(super) use writes::{LEFT, left};
pub(crate) use writes::{key_packages_low, last_resort_used, read};

use crate::error::Error;

fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(Error::internal)
}
