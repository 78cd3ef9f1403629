//! Checks of what a commit and its Welcome show, against facts in the database that do not change: the leaves of the commit's epoch, and the
//! references of key packages. Where the server does not know them, it does not guess.

use crate::app::App;
use crate::config::MlsValidation;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::mls::{self, Commit, GroupInfo, RosterChange};
use crate::store::key_packages::{self, Hash};
use crate::store::members;
use crate::xrpc::Caller;

/// Checks a public commit against the leaves of its epoch, if the conversation has the GroupInfo of that.
pub async fn check_leaves(
    app: &App,
    caller: &Caller,
    convo: &ConvoId,
    commit: &Commit,
    change: &RosterChange<'_>,
) -> Result<(), Error> {
    if app.config.mls_validation != MlsValidation::Strict || !commit.shows_leaves() {
        return Ok(());
    }
    let reader = app.store.reader().await?;
    let found = match reader.group_info(convo, &caller.did).await {
        // Its commit may have been accepted before it left.
        Err(error) if matches!(error.code, Code::NotMember | Code::ConvoNotFound) => return Ok(()),
        found => found?,
    };
    let Some(bytes) = found.bytes.filter(|_| found.epoch == commit.frame.epoch) else { return Ok(()) };
    // A group after a reset gets to the same epochs.
    let frame = commit.frame.clone();
    let leaves = mls::parse_large(bytes, move |bytes| Ok(GroupInfo::leaves(&bytes, &frame))).await?;
    let Some(leaves) = leaves else { return Ok(()) };
    let lost = commit.check_leaves(&caller.did, change, &leaves)?;
    if !lost.is_empty()
        && let Some(member) = members::first_active(&reader, convo, &lost).await?
    {
        return Err(Code::InvalidCommit.because(format!(
            "commit must agree with the request: it removes {member}, who is a member and whom the request does not remove"
        )));
    }
    Ok(())
}

/// Checks that a Welcome is for the named key packages and no others, if the server knows the references of all of them.
pub async fn check_recipients(app: &App, welcome: &[u8], named: &[(Did, Hash)]) -> Result<(), Error> {
    if app.config.mls_validation != MlsValidation::Strict || named.is_empty() {
        return Ok(());
    }
    let hashes: Vec<&[u8]> = named.iter().map(|(_, hash)| hash.as_slice()).collect();
    match key_packages::references(&app.store.reader().await?, &hashes).await? {
        Some(references) => mls::check_recipients(welcome, &references),
        None => Ok(()),
    }
}
