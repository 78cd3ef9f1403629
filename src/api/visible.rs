//! Checks of what public messages and Welcomes show, against facts in the database that do not change: the state of the group in their epoch,
//! and the references of key packages. Where the server does not know them, it does not guess.

use crate::app::App;
use crate::commands::Invitation;
use crate::config::MlsValidation;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::mls::{self, Commit, EpochState, Frame, GroupInfo, Proposal, RosterChange, Signed};
use crate::store::device_additions::Addition;
use crate::store::key_packages;
use crate::store::members;
use crate::xrpc::Caller;

/// Checks the signature of a public commit and the leaves that it shows, if the conversation has the GroupInfo of its epoch.
pub async fn check_commit(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    commit: &Commit,
    change: &RosterChange<'_>,
) -> Result<(), Error> {
    let Some(state) = verified(app, caller, convo, &commit.frame, || commit.signed()).await? else {
        return Ok(());
    };
    let lost = commit.check_leaves(&caller.did, change, &state.leaves)?;
    if !lost.is_empty()
        && let Some(member) = members::first_active(&app.store.reader().await?, convo, &lost).await?
    {
        return Err(Code::InvalidCommit.because(format!(
            "commit must agree with the request: it removes {member}, who is a member and whom the request does not remove"
        )));
    }
    Ok(())
}

/// Checks the signature of a public proposal, and that its sender is a leaf of the caller, if the conversation has the GroupInfo of its epoch.
pub async fn check_proposal(app: &App, caller: &Caller, convo: &ConvoId, proposal: &Proposal) -> Result<(), Error> {
    match verified(app, caller, convo, &proposal.frame, || proposal.signed()).await? {
        Some(state) => proposal.check_leaf(&caller.did, &state.leaves),
        None => Ok(()),
    }
}

/// Verifies the signature of a public message, and returns the state of the group in its epoch. `None`: the message is encrypted, or the
/// conversation has no GroupInfo of that epoch.
async fn verified(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    frame: &Frame,
    signed: impl FnOnce() -> Option<Signed>,
) -> Result<Option<EpochState>, Error> {
    if app.config.mls_validation != MlsValidation::Strict {
        return Ok(None);
    }
    let Some(signed) = signed() else { return Ok(None) };
    // The message may have been accepted before its sender left.
    let Some((epoch, bytes)) = stored(app, caller, convo).await? else { return Ok(None) };
    if epoch != frame.epoch {
        return Ok(None);
    }
    // A group after a reset gets to the same epochs.
    let (size, frame) = (bytes.len() + signed.size(), frame.clone());
    let verify = move || {
        let state = GroupInfo::state(&bytes, &frame);
        state.map(|state| signed.verify(&state).map(|()| state)).transpose()
    };
    mls::read_large(size, verify).await
}

/// Returns the present epoch and its GroupInfo. `None`: there is none, or the caller is not a member.
async fn stored(app: &App, caller: &Caller, convo: &ConvoId) -> Result<Option<(i64, Vec<u8>)>, Error> {
    match app.store.reader().await?.group_info(convo, &caller.did).await {
        Err(error) if matches!(error.code, Code::NotMember | Code::ConvoNotFound) => Ok(None),
        found => found.map(|found| found.bytes.map(|bytes| (found.epoch, bytes))),
    }
}

/// Returns the present epoch of a conversation if its GroupInfo shows that a device is in the group. The key of a device may have been in the
/// group before the device was registered, as that of the group's creator is.
pub async fn device_epoch(app: &App, caller: &Caller, addition: &Addition) -> Result<Option<i64>, Error> {
    if app.config.mls_validation != MlsValidation::Strict {
        return Ok(None);
    }
    let convo = addition.convo_id.parse().map_err(|malformed| Error::internal(format!("a stored id: {malformed}")))?;
    let Some((epoch, bytes)) = stored(app, caller, &convo).await? else { return Ok(None) };
    let (owner, key) = (addition.owner.clone(), addition.signature_key.clone());
    let size = bytes.len();
    let shows = move || Ok(GroupInfo::leaves(&bytes).is_some_and(|leaves| leaves.has(&owner, &key)));
    Ok(mls::read_large(size, shows).await?.then_some(epoch))
}

/// Checks that a Welcome is for the named key packages and no others, if the server knows the references of all of them.
pub async fn check_recipients(app: &App, invitation: &Invitation) -> Result<(), Error> {
    let named = &invitation.key_packages;
    let Some(welcome) = &invitation.welcome else { return Ok(()) };
    if app.config.mls_validation != MlsValidation::Strict || named.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = named.iter().map(|(_, hash)| hash.as_slice()).collect();
    match key_packages::references(&app.store.reader().await?, &hashes).await? {
        Some(references) => mls::check_recipients(&welcome.bytes, &references),
        None => Ok(()),
    }
}
