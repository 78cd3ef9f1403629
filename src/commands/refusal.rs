//! The error for a commit or message of another epoch: where the conversation stands, and the commits to apply before a retry.

use crate::bytes::to_base64;
use crate::error::{Code, Error, Reason};
use crate::ids::{ConvoId, Did};
use crate::store::members::Membership;
use crate::store::messages::{MAX_MISSING, MAX_MISSING_BYTES};
use crate::store::{Abort, Position, Queries, epochs, group_infos, groups, members, messages};

/// Group, epoch and incarnation that a commit or message was made in.
#[derive(Clone, Copy)]
pub(super) struct MadeIn<'a> {
    /// Number of the group; `None` if it is unknown.
    pub generation: Option<i64>,
    pub epoch: i64,
    /// The server's incarnation that the sender heard from last, as the sender says.
    pub incarnation: Option<&'a str>,
}

/// Returns the error for a commit or message of another epoch while the conversation stands at `at`. A sender that is behind can catch up
/// (`EpochMismatch`), or no longer can (`EpochExpired`). One that is ahead was there in another incarnation (`ServerRolledBack`), or
/// never (`EpochAhead`). Only members learn it.
pub(super) async fn epoch_mismatch(
    db: &impl Queries,
    convo: &ConvoId,
    caller: &Did,
    made_in: MadeIn<'_>,
    at: Position,
) -> Abort {
    match describe(db, convo, caller, made_in, at).await {
        Ok(error) => Abort::Refused(error),
        Err(abort) => abort,
    }
}

/// Maximum size of a GroupInfo in an error, in bytes. `getGroupInfo` returns a larger one.
const MAX_GROUP_INFO_BYTES: usize = 1024 * 1024;

/// Adds the GroupInfo of the present epoch to the error for an external commit of an earlier one, if there is one that fits: the commits
/// that its sender lacks are of no use without the group's state.
pub(super) async fn with_group_info(db: &impl Queries, convo: &ConvoId, caller: &Did, refused: Abort) -> Abort {
    let mut error = match refused {
        Abort::Refused(error) if error.details.reason == Some(Reason::Stale) => error,
        other => return other,
    };
    let found = match group_infos::find(db, convo, caller, MAX_GROUP_INFO_BYTES).await {
        Ok(found) => found,
        Err(abort) => return abort,
    };
    // Another commit may have won since the error was made.
    if error.details.server_epoch == Some(found.epoch) {
        error.details.group_info = found.bytes.as_deref().map(to_base64);
    }
    Abort::Refused(error)
}

async fn describe(
    db: &impl Queries,
    convo: &ConvoId,
    caller: &Did,
    made_in: MadeIn<'_>,
    at: Position,
) -> Result<Error, Abort> {
    let member = members::membership(db, convo, caller).await?;
    if let Some(generation) = made_in.generation.filter(|generation| *generation != member.generation) {
        return other_generation(db, convo, &member, generation).await;
    }
    let MadeIn { epoch, incarnation, .. } = made_in;
    let place = format!("made in epoch {epoch}, but the conversation is in epoch {}", at.epoch);
    let is_present = |seen: &str| member.incarnation.is_some_and(|present| present.to_string() == seen);
    let mut error = if epoch < at.epoch {
        stale(db, convo, caller, (member.generation, epoch, member.joined_epoch), at, &place).await?
    } else if incarnation.is_some_and(|seen| !is_present(seen)) {
        Code::ServerRolledBack.because(format!(
            "{place}: the database has been restored since you last read it and has lost the commits in between"
        ))
    } else {
        let mut error = Code::EpochAhead.because(format!("{place}: a commit that you merged was never accepted"));
        error.details.reason = Some(Reason::Future);
        error.details.missing = Some(Vec::new());
        error
    };
    error.details.server_epoch = Some(at.epoch);
    error.details.generation = Some(member.generation);
    error.details.server_incarnation = member.incarnation;
    Ok(error)
}

/// Returns the error for a commit or message of another group than the present one.
async fn other_generation(
    db: &impl Queries,
    convo: &ConvoId,
    member: &Membership,
    generation: i64,
) -> Result<Error, Abort> {
    let present = groups::find(db, convo).await?.ok_or_else(epochs::not_found)?;
    let mut error = Code::StaleGeneration.because(format!(
        "made in generation {generation}, but the conversation is in generation {}: join the group that it has now",
        present.generation
    ));
    error.details.server_epoch = Some(member.at.epoch);
    error.details.generation = Some(present.generation);
    error.details.group_id = Some(present.id.clone());
    error.details.server_incarnation = member.incarnation;
    Ok(error)
}

/// Returns the error for a caller that is behind in a generation and joined in epoch `joined`, with the commits after its epoch.
async fn stale(
    db: &impl Queries,
    convo: &ConvoId,
    caller: &Did,
    (generation, epoch, joined): (i64, i64, i64),
    at: Position,
    place: &str,
) -> Result<Error, Abort> {
    let (commits, limits) = ((generation, epoch + 1, at.epoch), (MAX_MISSING, MAX_MISSING_BYTES));
    let mut missing = messages::list_commits(db, convo, caller, commits, limits).await?;
    let mut more = missing.last().map(|last| last.epoch < at.epoch);
    let (mut code, mut message) = (Code::EpochMismatch, format!("{place}: apply `missing`, then rebuild it"));
    // Returns whether the first commit that it lacks has been deleted.
    let is_gone = |joined: i64| {
        let next = epoch.max(joined) + 1;
        next <= at.epoch && missing.first().is_none_or(|first| first.epoch > next)
    };
    // A replica without locks may have removed the caller since its membership was read, and added it again. Then it sees fewer commits,
    // though none was deleted.
    if is_gone(joined) && is_gone(members::membership(db, convo, caller).await?.joined_epoch) {
        // The kept commits begin at a later epoch, which getCommits reports.
        code = Code::EpochExpired;
        message = format!(
            "{place}, and commits after epoch {epoch} have been deleted: if your own state is in epoch {}, rebuild it; otherwise ask to \
             be added anew",
            at.epoch
        );
        (missing, more) = (Vec::new(), Some(true));
    }
    let mut error = code.because(message);
    error.details.reason = Some(Reason::Stale);
    error.details.more_missing = more;
    error.details.missing = Some(missing);
    Ok(error)
}
