//! submitCommit: a member advances the epoch, with the changes of the roster that the commit makes. addMembers, and leaveConvo and
//! removeMember with a commit, are this command too. Without a commit it adds people to the roster alone.
//!
//! `sql/queries/commits/submit_commit.sql` decides whether it is accepted, and does it. Here is the reply where it is not.

mod batch;

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use crate::config::ExternalCommitLimits;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::{Commit, GroupInfo};
use crate::store::commits::{self, NewCommit, Person};
use crate::store::{
    Abort, BatchKind, Batched, Cause, Command, Counts, Exclusive, Position, Queries, Refusal, Refused, epochs, welcomes,
};

use super::{Accepted, Idempotency, Invitation, MAX_MEMBERS, Replayable, replayable};

/// A commit with the changes of the roster that it makes, or an addition to the roster alone.
#[derive(Debug)]
pub struct SubmitCommit {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// People to add; no duplicates.
    pub added: Vec<Did>,
    /// People to remove; no duplicates. One that is also added begins a new membership. Empty without a commit.
    pub removed: Vec<Did>,
    pub commit: Option<Commit>,
    /// The device that an external commit brings into the group. Such a commit changes no roster.
    pub arrival: Option<Arrival>,
    /// Number of the group that the commit is of.
    pub generation: Option<i64>,
    /// The commit's id in the log.
    pub entry_id: EntryId,
    pub invitation: Invitation,
    /// GroupInfo of the epoch that the commit creates, signed by the caller.
    pub group_info: Option<GroupInfo>,
    /// The server's incarnation that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub idempotency: Idempotency,
}

/// Part of the interval by which the waits of refused external commits differ.
const JITTER_SHARE: u64 = 6;

/// Device that an external commit brings into the group.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Identity of its leaf, the caller's DID or `did#device`.
    pub identity: String,
    /// Signature key of its leaf, by which a registered device is known.
    pub signature_key: Vec<u8>,
    pub limits: ExternalCommitLimits,
}

impl Arrival {
    /// Refuses an external commit of the present epoch for which there is no room now. It waits for no other writer, so that many refused
    /// ones do not delay those.
    pub async fn check_room(
        &self,
        db: &impl Queries,
        (convo, caller): (&ConvoId, &Did),
        made_in: (i64, i64),
        entry_id: &EntryId,
    ) -> Result<(), Error> {
        match commits::external_wait(db, convo, caller, &self.identity, self.limits, made_in).await? {
            None => Ok(()),
            Some(wait) => Err(self.refuse(wait, entry_id)),
        }
    }

    /// Returns the refusal, with another wait for each request, so that a storm of them becomes a queue.
    fn refuse(&self, wait: u64, entry_id: &EntryId) -> Error {
        let ExternalCommitLimits { seconds, per_convo } = self.limits;
        let digest = Sha256::digest(entry_id.as_str());
        let most = seconds * 1_000 / JITTER_SHARE;
        let jitter = most * u64::from(u16::from_be_bytes([digest[0], digest[1]])) / u64::from(u16::MAX);
        let mut error = Code::RateLimitExceeded.because(format!(
            "this device joins the group again at most once in {seconds} seconds, and all devices together at most {per_convo} times"
        ));
        error.details.retry_after_ms = Some(wait + jitter);
        error
    }
}

/// Most people and key packages of a commit that may be in a batch.
const MAX_BATCHED: usize = 32;

impl Command for SubmitCommit {
    const NAME: &'static str = "submitCommit";
    type Output = Accepted;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.caller
    }

    fn commits(&self) -> bool {
        self.commit.is_some()
    }

    fn affected(&self) -> Vec<&Did> {
        self.added.iter().chain(&self.removed).collect()
    }

    /// Without a commit it cannot be distinguished from another request that adds the same people, should the reply be lost. So it must not
    /// be sent again blindly, as a batch is.
    fn batch_kind(&self) -> Option<BatchKind> {
        let is_small = self.added.len() + self.removed.len() + self.invitation.key_packages.len() <= MAX_BATCHED;
        // An external commit is followed by another statement.
        (self.commit.is_some() && is_small && self.arrival.is_none()).then_some(BatchKind::Commits)
    }

    fn made_in(&self) -> Option<i64> {
        self.commit.as_ref().map(|commit| commit.frame.epoch)
    }

    fn bytes(&self) -> usize {
        self.commit.as_ref().map_or(0, |commit| commit.bytes.len())
            + self.invitation.welcome.as_ref().map_or(0, |welcome| welcome.bytes.len())
            + self.group_info.as_ref().map_or(0, |group_info| group_info.bytes.len())
    }

    fn counts(&self, accepted: &Accepted) -> Counts {
        match accepted.replayed {
            true => Counts::default(),
            false => Counts {
                members_added: self.added.len(),
                epochs: u64::from(self.commit.is_some()),
                ..Counts::default()
            },
        }
    }

    fn explain(&self, error: Error) -> Error {
        match self.commit.is_some() || self.idempotency.has_key() {
            true => error,
            false => error.with_retry_hint("send the same request again: AlreadyMember says that it was done"),
        }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Accepted, Abort> {
        let mut submitted = self.submit(x).await?;
        if let Err(Refused { refusal: Refusal::WelcomeWaits, .. }) = submitted {
            // A refused statement locks nothing, and another replica may replace the Welcome meanwhile.
            epochs::lock_row(x).await?;
            let people: Vec<&Did> = self.added.iter().chain(&self.removed).collect();
            welcomes::withdraw(x, &people, &self.invitation.key_packages).await?;
            submitted = self.submit(x).await?;
            if submitted.is_err() {
                // The next attempt gives the reason. This one must not commit the withdrawal, as it would with an earlier reply.
                return Err(Abort::Again(Cause::Taken));
            }
        }
        match submitted {
            Ok(at) => {
                if let Some(arrival) = &self.arrival {
                    self.admit(x, arrival, at.epoch).await?;
                }
                Ok(self.accepted(at))
            }
            Err(refused) => self.refusal(x.tx(), &refused).await,
        }
    }
}

impl SubmitCommit {
    fn accepted(&self, at: Position) -> Accepted {
        Accepted { generation: self.generation, ..Accepted::now(at) }
    }

    async fn submit(&self, x: &mut Exclusive<'_>) -> Result<Result<Position, Refused>, Abort> {
        commits::submit_one(x, self.new_commit(), MAX_MEMBERS).await
    }

    /// Counts an external commit. Errors if there were too many; then the transaction is rolled back.
    async fn admit(&self, x: &Exclusive<'_>, arrival: &Arrival, epoch: i64) -> Result<(), Abort> {
        let Arrival { identity, signature_key, limits } = arrival;
        match commits::admit_external(x, &self.caller, identity, signature_key, *limits, epoch).await? {
            None => Ok(()),
            Some(wait) => Err(arrival.refuse(wait, &self.entry_id).into()),
        }
    }

    fn new_commit(&self) -> NewCommit<'_> {
        let commit = self.commit.as_ref();
        NewCommit {
            convo: &self.convo_id,
            id: &self.entry_id,
            sender: &self.caller,
            generation: self.generation,
            epoch: commit.map(|commit| commit.frame.epoch),
            commit: commit.map(|commit| commit.bytes.as_slice()),
            hash: commit.map(|commit| commit.hash.as_slice()),
            people: self.people(),
            welcome: self.invitation.welcome.as_ref(),
            key_packages: &self.invitation.key_packages,
            group_info: self.group_info.as_ref().map(|group_info| group_info.bytes.as_slice()),
            method: self.idempotency.method(),
            idempotency: self.idempotency.key(),
            now: self.invitation.now,
        }
    }

    /// The people that it adds and removes, and the owners of its key packages, each once.
    fn people(&self) -> Vec<Person<'_>> {
        let (added, removed): (HashSet<&Did>, HashSet<&Did>) =
            (self.added.iter().collect(), self.removed.iter().collect());
        let owners = self.invitation.key_packages.iter().map(|(owner, _)| owner);
        let mut seen = HashSet::new();
        let everybody = self.added.iter().chain(&self.removed).chain(owners).filter(|did| seen.insert(*did));
        everybody.map(|did| Person { did, added: added.contains(did), removed: removed.contains(did) }).collect()
    }
}

impl Replayable for SubmitCommit {
    type Output = Accepted;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Accepted>, Abort> {
        replayable::with_commit(db, &self.idempotency, &self.convo_id, self.commit.as_ref(), &self.caller).await
    }

    fn is_new(accepted: &Accepted) -> bool {
        !accepted.replayed
    }
}

/// The refusal of one member too many.
pub(crate) fn too_many() -> Error {
    Code::TooManyMembers.because(format!("a conversation has at most {MAX_MEMBERS} members"))
}
