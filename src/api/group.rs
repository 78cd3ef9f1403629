//! Checks of MLS messages in requests against the group of their conversation. They read the database.

use std::sync::Arc;

use crate::api::visible;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::mls::{self, Commit, Frame, GroupInfo, Proposal, Suite};
use crate::store::groups::Group;
use crate::store::members;
use crate::store::messages::AppMessage;
use crate::xrpc::Caller;

/// Returns the cipher suite of the caller's conversation.
pub async fn suite(app: &App, caller: &Caller, convo: &ConvoId) -> Result<Suite, Error> {
    app.serializer.refuse_stranger(convo, &caller.did).await?;
    let reader = app.store.reader().await?;
    members::membership(&reader, convo, &caller.did).await?;
    reader.suite(convo).await
}

/// Parses a request's commit and checks that it belongs to the conversation's group, which is returned too.
pub async fn commit(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    bytes: Option<LexBytes>,
) -> Result<Option<(Commit, Arc<Group>)>, Error> {
    let Some(bytes) = bytes else { return Ok(None) };
    let commit = mls::parse_large(bytes.0, Commit::parse).await?;
    let group = check(app, caller, convo, &commit.frame, Code::InvalidCommit).await?;
    Ok(Some((commit, group)))
}

/// Parses a request's GroupInfo, and checks that it belongs to the conversation's group, which is returned too, that it is of this epoch, and
/// that the caller has signed it.
pub async fn group_info(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    bytes: LexBytes,
    epoch: i64,
) -> Result<(GroupInfo, Arc<Group>), Error> {
    let group_info = mls::parse_large(bytes.0, GroupInfo::parser(app.config.mls_validation)).await?;
    let group = check(app, caller, convo, &group_info.frame, Code::InvalidGroupInfo).await?;
    for_member(app, caller, convo, group_info.check(group.suite, epoch, &caller.did)).await?;
    Ok((group_info, group))
}

/// Parses a request's proposal and checks that its caller may send it to the conversation's group, which is returned too.
pub async fn proposal(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    bytes: LexBytes,
) -> Result<(Proposal, Arc<Group>), Error> {
    let proposal = mls::parse_large(bytes.0, Proposal::parse).await?;
    let group = check(app, caller, convo, &proposal.frame, Code::InvalidProposal).await?;
    for_member(app, caller, convo, proposal.check(&caller.did, group.suite, app.config.mls_validation)).await?;
    visible::check_proposal(app, caller, convo, &proposal).await?;
    Ok((proposal, group))
}

/// Returns the outcome of a check to a member. A former member whose request is refused is told that it is no longer a member instead.
pub async fn for_member<T>(app: &App, caller: &Caller, convo: &ConvoId, checked: Result<T, Error>) -> Result<T, Error> {
    if checked.is_err() {
        members::membership(&app.store.reader().await?, convo, &caller.did).await?;
    }
    checked
}

/// Returns a proposal of a group as an entry of the log.
pub fn proposal_entry(app: &App, caller: &Caller, proposal: Proposal, group: &Group) -> AppMessage {
    AppMessage {
        id: app.new_id(),
        sender: caller.did.clone(),
        generation: Some(group.generation),
        epoch: proposal.frame.epoch,
        ciphertext: proposal.bytes,
        body: None,
        embed_type: None,
        embed_uri: None,
        proposal_hash: Some(proposal.hash),
    }
}

/// Checks that an MLS message belongs to a group that the conversation has or had, and returns that group. Only members are told that it
/// does not. A group from before the present one is not refused here: an equal request may have been accepted then, and the statement that
/// writes compares the generation.
pub async fn check(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    frame: &Frame,
    code: Code,
) -> Result<Arc<Group>, Error> {
    // First, because a cached group would show strangers by its timing that the conversation exists.
    app.serializer.refuse_stranger(convo, &caller.did).await?;
    if let Some(group) = app.store.group(convo, &frame.group_id()).await? {
        return Ok(group);
    }
    for_member(app, caller, convo, Err(code.because("the message's MLS group is not this conversation's"))).await
}
