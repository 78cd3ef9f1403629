//! Commands whose repetition can be told without doing anything.

use crate::store::{Abort, Reader};

/// A command of which a read tells whether the same request has done it before.
pub(crate) trait Repeatable {
    type Output;

    /// What the same request got, if it was done. It looks only at what is the caller's own.
    fn earlier(&self, db: &Reader) -> impl Future<Output = Result<Option<Self::Output>, Abort>>;

    /// Whether it was done now, and not before.
    fn is_new(output: &Self::Output) -> bool;
}
