//! The answer to whoever lost an epoch: where the server stands, and the commits to apply before trying again.

use crate::error::{Code, Error, Reason};
use crate::ids::{ConvoId, Did};
use crate::store::messages::{MAX_MISSING, MAX_MISSING_BYTES};
use crate::store::{Abort, Position, Queries, members, messages};

/// `EpochMismatch` for a commit or message made in `epoch` while the conversation stands at `at`. Only members learn it.
pub(super) async fn epoch_mismatch(
    db: &(impl Queries + Sync),
    convo: &ConvoId,
    caller: &Did,
    epoch: i64,
    at: Position,
) -> Abort {
    match describe(db, convo, caller, epoch, at).await {
        Ok(error) => Abort::Refused(error),
        Err(abort) => abort,
    }
}

async fn describe(
    db: &(impl Queries + Sync),
    convo: &ConvoId,
    caller: &Did,
    epoch: i64,
    at: Position,
) -> Result<Error, Abort> {
    let member = members::membership(db, convo, caller).await?;
    let (reason, message) = match epoch < at.epoch {
        true => (
            Reason::Stale,
            format!(
                "made in epoch {epoch}, but the conversation is in epoch {}: apply `missing`, then build it anew",
                at.epoch
            ),
        ),
        false => (
            Reason::Future,
            format!(
                "made in epoch {epoch}, but the conversation is in epoch {}: a commit that you merged was never accepted",
                at.epoch
            ),
        ),
    };
    let limits = (MAX_MISSING, MAX_MISSING_BYTES);
    let mut missing = match reason {
        Reason::Stale => messages::list_commits(db, convo, caller, (epoch + 1, at.epoch), limits).await?,
        Reason::Future => Vec::new(),
    };
    let (mut message, mut more) = (message, missing.last().map(|last| last.epoch < at.epoch));
    // The first one that it lacks, if it lacks any.
    let next = epoch.max(member.joined_epoch) + 1;
    if next <= at.epoch && missing.first().is_none_or(|first| first.epoch > next) && reason == Reason::Stale {
        // What is kept leads on from a later epoch, which getCommits says.
        message = format!(
            "made in epoch {epoch}, but the conversation is in epoch {}, and commits after yours have been deleted: ask to be added anew",
            at.epoch
        );
        (missing, more) = (Vec::new(), Some(true));
    }
    let mut error = Code::EpochMismatch.because(message);
    error.details.server_epoch = Some(at.epoch);
    error.details.reason = Some(reason);
    error.details.more_missing = more;
    error.details.missing = Some(missing);
    Ok(error)
}
