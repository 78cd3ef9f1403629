//! Commands whose repetition can be told without doing anything.

use crate::ids::{ConvoId, Did};
use crate::mls::Commit;
use crate::store::{Abort, Reader, messages};

use super::{Landed, Once};

/// A command of which a read tells whether the same request has done it before.
pub(crate) trait Repeatable {
    type Output;

    /// What the same request got, if it was done. It looks only at what is the caller's own.
    fn earlier(&self, db: &Reader) -> impl Future<Output = Result<Option<Self::Output>, Abort>>;

    /// Whether it was done now, and not before.
    fn is_new(output: &Self::Output) -> bool;
}

/// What a request with an idempotency key or a commit got, if it was done: either of them tells.
pub(super) async fn with_commit(
    db: &Reader,
    once: &Once,
    convo: &ConvoId,
    commit: Option<&Commit>,
    caller: &Did,
) -> Result<Option<Landed>, Abort> {
    if let Some(earlier) = once.earlier(db).await? {
        return Ok(Some(earlier));
    }
    let Some(commit) = commit else { return Ok(None) };
    let found = messages::find_commit(db, convo, &commit.hash, caller).await?;
    Ok(found.map(Landed::earlier))
}
