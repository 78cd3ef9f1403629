//! Commands of which a read shows whether an equal request was done before.

use crate::ids::{ConvoId, Did};
use crate::mls::Commit;
use crate::store::{Abort, Queries, messages};

use super::{Accepted, Idempotency};

/// A command of which a read shows whether an equal request was done before.
pub(crate) trait Replayable {
    type Output;

    /// Returns the reply that the same request got, if it was done. It reads only the caller's own records.
    fn replay(&self, db: &impl Queries) -> impl Future<Output = Result<Option<Self::Output>, Abort>> + Send;

    /// Returns whether it was done now, and not before.
    fn is_new(output: &Self::Output) -> bool;
}

/// Returns the reply that an equal request with this idempotency key or this commit got, if it was done.
pub(super) async fn with_commit(
    db: &impl Queries,
    idempotency: &Idempotency,
    convo: &ConvoId,
    commit: Option<&Commit>,
    caller: &Did,
) -> Result<Option<Accepted>, Abort> {
    if let Some(earlier) = idempotency.replay(db).await? {
        return Ok(Some(earlier));
    }
    let Some(commit) = commit else { return Ok(None) };
    let found = messages::find_commit(db, convo, &commit.hash, caller).await?;
    Ok(found.map(|(generation, at)| Accepted { generation, ..Accepted::replayed(at) }))
}
