//! The one way of every method with a commit: submitCommit, addMembers, and leaveConvo and removeMember with one.

use serde::Serialize;

use crate::api::fields::{self, Key, ServerIncarnation};
use crate::api::group;
use crate::api::visible;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands::{Accepted, Arrival, Fingerprint, Idempotency, Invitation, SubmitCommit};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::mls::RosterChange;
use crate::quotas::{Charge, Reservation};
use crate::store::key_packages::Hash;
use crate::xrpc::Caller;

/// Maximum DIDs in one list of a request.
pub const MAX_DIDS: usize = 999;

/// A request with a commit, or one that adds people to the roster alone.
pub struct Submission {
    /// The method, without the namespace.
    pub method: &'static str,
    pub convo_id: ConvoId,
    pub added: Vec<Did>,
    pub removed: Vec<Did>,
    pub commit: Option<LexBytes>,
    pub welcome: Option<LexBytes>,
    /// GroupInfo of the epoch that the commit creates.
    pub group_info: Option<LexBytes>,
    pub key_packages: Vec<(Did, Hash)>,
    pub key: Option<Key>,
    /// Fingerprint of the request's fields. Replicas of another build have to find the same.
    pub fingerprint: Fingerprint,
    pub incarnation: Option<ServerIncarnation>,
    /// The commit has to be an external one.
    pub only_from_outside: bool,
}

/// Reply to a commit that was accepted.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    new_epoch: i64,
    epoch: i64,
    seq: i64,
}

impl From<Accepted> for Output {
    fn from(accepted: Accepted) -> Self {
        let Accepted { generation, epoch, seq, .. } = accepted;
        Self { success: true, generation, new_epoch: epoch, epoch, seq }
    }
}

/// Checks a list of people to add.
pub fn check_added(added: &[Did], what: &str) -> Result<(), Error> {
    if added.len() > MAX_DIDS {
        return Err(Code::TooManyMembers.because(format!("{what} must have at most {MAX_DIDS} DIDs")));
    }
    fields::distinct(added, what)
}

impl Submission {
    /// Runs the request.
    pub async fn run(self, app: &App, caller: &Caller) -> Result<Accepted, Error> {
        let command = self.command(app, caller).await?;
        let held = hold(app, &command).await;
        app.quotas.run_reserved(held, command, async |command| app.serializer.run(command).await).await
    }

    async fn command(self, app: &App, caller: &Caller) -> Result<SubmitCommit, Error> {
        // Only a commit in the same request shows that the Welcome belongs to the epoch that was won.
        if self.welcome.is_some() && self.commit.is_none() {
            return Err(Code::InvalidWelcome.because("a Welcome needs its commit; send both in one request"));
        }
        if self.group_info.is_some() && self.commit.is_none() {
            let message =
                "a GroupInfo needs the commit that creates its epoch; updateGroupInfo takes one of the present epoch";
            return Err(Code::InvalidGroupInfo.because(message));
        }
        // A request without one keeps the fingerprint that earlier builds computed.
        let fingerprint = match &self.group_info {
            Some(group_info) => self.fingerprint.field(Some(&group_info.0)),
            None => self.fingerprint,
        };
        let (welcome, of_suite) =
            fields::welcome(self.welcome).await?.map(|welcome| (welcome.bytes, welcome.suite)).unzip();
        let has_welcome = welcome.is_some();
        let has_commit = self.commit.is_some();
        let may_have_devices = |did: &Did| has_commit && !self.removed.contains(did);
        let new_id = || app.new_id::<String>();
        let invitation =
            Invitation::new(&self.added, may_have_devices, welcome, self.key_packages, new_id, app.clock.now())?;
        if has_welcome && invitation.welcome.is_none() {
            let message = "a Welcome needs a recipient: a person who is added, or an entry of keyPackageHashes";
            return Err(Code::InvalidWelcome.because(message));
        }
        // The conversation is checked last: any other refusal is the same for a stranger and for a member.
        let commit = group::commit(app, caller, &self.convo_id, self.commit).await?;
        let arrival = commit
            .as_ref()
            .and_then(|(commit, _)| commit.external_leaf())
            .map(|(identity, signature_key)| Arrival { identity, signature_key, limits: app.config.external_commits });
        let entry_id = app.new_id();
        if let Some((commit, group)) = &commit {
            commit.check_suite(group.suite)?;
            let change = RosterChange {
                added: &self.added,
                removed: &self.removed,
                owners: invitation.key_packages.iter().map(|(owner, _)| owner).collect(),
            };
            let agrees = commit.check_roster(&caller.did, &change, app.config.mls_validation);
            group::for_member(app, caller, &self.convo_id, agrees).await?;
            of_suite.map_or(Ok(()), |suite| suite.check(group.suite))?;
            if let Some(arrival) = &arrival {
                let (reader, made_in) = (app.store.reader().await?, (group.generation, commit.frame.epoch));
                let room = arrival.check_room(&reader, (&self.convo_id, &caller.did), made_in, &entry_id).await;
                room.inspect_err(|error| {
                    if error.code == Code::RateLimitExceeded {
                        app.limits.external_commit_refused();
                    }
                })?;
            }
            visible::check_commit(app, caller, &self.convo_id, commit, &change).await?;
            let is_addressed = visible::check_recipients(app, &invitation).await;
            group::for_member(app, caller, &self.convo_id, is_addressed).await?;
        }
        let changes_roster = !self.added.is_empty() || !self.removed.is_empty() || !invitation.key_packages.is_empty();
        if self.only_from_outside && arrival.is_none() {
            return Err(Code::InvalidCommit.because("externalCommit must be a PublicMessage from outside the group"));
        }
        if arrival.is_some() && changes_roster {
            return Err(Code::InvalidCommit.because("a commit from outside the group adds and removes no member"));
        }
        let group_info = match (self.group_info, &commit) {
            (Some(bytes), Some((commit, group))) => {
                let epoch = commit.frame.epoch + 1;
                let (group_info, its_group) = group::group_info(app, caller, &self.convo_id, bytes, epoch).await?;
                if its_group.generation != group.generation {
                    return Err(Code::InvalidGroupInfo.because("groupInfo is of another group than the commit"));
                }
                Some(group_info)
            }
            _ => None,
        };
        let (commit, generation) = commit.map(|(commit, group)| (commit, group.generation)).unzip();
        Ok(SubmitCommit {
            convo_id: self.convo_id,
            caller: caller.did.clone(),
            added: self.added,
            removed: self.removed,
            commit,
            generation,
            arrival,
            entry_id,
            invitation,
            group_info,
            incarnation: self.incarnation.map(|seen| seen.0),
            idempotency: Idempotency::new(caller.did.clone(), self.method, self.key.map(|key| key.0), fingerprint),
        })
    }
}

/// Reserves the quota that the command will use: its bytes and its introductions. Strangers are refused before that, so the DIDs that
/// they name are not looked up.
async fn hold(app: &App, command: &SubmitCommit) -> Result<Reservation, Error> {
    app.serializer.refuse_stranger(&command.convo_id, &command.caller).await?;
    let commit = command.commit.as_ref().map_or(0, |commit| commit.bytes.len());
    let group_info = command.group_info.as_ref().map_or(0, |group_info| group_info.bytes.len());
    let bytes = commit + group_info + command.invitation.bytes(&command.added);
    // The entry, the events of those who are added and removed, and the rows of the invitation.
    let rows =
        2 + usize::from(group_info > 0) + 2 * command.removed.len() + command.invitation.rows(command.added.len());
    let mut charges = vec![Charge::stored(&command.caller, bytes, rows)];
    charges.extend(app.quotas.stranger_charges(&command.caller, &command.added).await?);
    app.quotas.reserve(charges)
}
