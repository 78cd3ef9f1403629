//! Checks of MLS messages in requests against the group of their conversation. They read the database.

use crate::app::App;
use crate::bytes::LexBytes;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::mls::{self, Commit, Frame, GroupInfo, Suite};
use crate::store::members;
use crate::xrpc::Caller;

/// Parses a request's commit and checks that it belongs to the conversation's group, whose suite is returned too.
pub async fn commit(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    bytes: Option<LexBytes>,
) -> Result<Option<(Commit, Suite)>, Error> {
    let Some(bytes) = bytes else { return Ok(None) };
    let commit = mls::parse_large(bytes.0, Commit::parse).await?;
    let group = check(app, caller, convo, &commit.frame, Code::InvalidCommit).await?;
    Ok(Some((commit, group)))
}

/// Parses a request's GroupInfo, and checks that it belongs to the conversation's group and that the caller has signed it.
pub async fn group_info(app: &App, caller: &Caller, convo: &ConvoId, bytes: LexBytes) -> Result<GroupInfo, Error> {
    let group_info = mls::parse_large(bytes.0, GroupInfo::parser(app.config.mls_validation)).await?;
    let suite = check(app, caller, convo, &group_info.frame, Code::InvalidGroupInfo).await?;
    if let Err(refusal) = group_info.check(suite, &caller.did) {
        // Former members are told that they are no longer members.
        members::membership(&app.store.reader().await?, convo, &caller.did).await?;
        return Err(refusal);
    }
    Ok(group_info)
}

/// Checks that an MLS message belongs to the conversation's group, and returns the group's suite. Only members are told that it does not.
pub async fn check(app: &App, caller: &Caller, convo: &ConvoId, frame: &Frame, code: Code) -> Result<Suite, Error> {
    // First, because a cached group would show strangers by its timing that the conversation exists.
    app.serializer.refuse_stranger(convo, &caller.did).await?;
    if let Some(group) = app.store.group(convo).await?.filter(|group| frame.belongs_to(&group.id)) {
        return Ok(group.suite);
    }
    members::membership(&app.store.reader().await?, convo, &caller.did).await?;
    Err(code.because("the message's MLS group is not this conversation's"))
}
