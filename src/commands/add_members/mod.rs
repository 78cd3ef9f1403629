//! addMembers: a member adds others, with the commit that does so in the group or on the roster alone.
//!
//! `sql/queries/members/add_members.sql` decides whether they are added, and does it. Here is the reply where they are not.

mod batch;

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::Commit;
use crate::store::members::{self, NewMembers};
use crate::store::{
    Abort, BatchKind, Batched, Cause, Command, Counts, Exclusive, Position, Queries, Refusal, Refused, epochs, welcomes,
};

use super::{Accepted, Idempotency, Invitation, MAX_MEMBERS, Replayable, replayable};

/// People to add to a conversation.
#[derive(Debug)]
pub struct AddMembers {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// People to add; not empty, no duplicates.
    pub dids: Vec<Did>,
    pub commit: Option<Commit>,
    /// The commit's id in the log.
    pub entry_id: EntryId,
    pub invitation: Invitation,
    /// The server's incarnation that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub idempotency: Idempotency,
}

/// Most people and key packages of an addition that may be in a batch.
const MAX_BATCHED: usize = 32;

impl Command for AddMembers {
    const NAME: &'static str = "addMembers";
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
        self.dids.iter().collect()
    }

    /// Without a commit it cannot be distinguished from another request that adds the same people, should the reply be lost. So it must not
    /// be sent again blindly, as a batch is.
    fn batch_kind(&self) -> Option<BatchKind> {
        let is_small = self.dids.len() + self.invitation.key_packages.len() <= MAX_BATCHED;
        (self.commit.is_some() && is_small).then_some(BatchKind::Commits)
    }

    fn bytes(&self) -> usize {
        self.commit.as_ref().map_or(0, |commit| commit.bytes.len())
            + self.invitation.welcome.as_ref().map_or(0, |welcome| welcome.bytes.len())
    }

    fn counts(&self, accepted: &Accepted) -> Counts {
        match accepted.replayed {
            true => Counts::default(),
            false => {
                Counts { members_added: self.dids.len(), epochs: u64::from(self.commit.is_some()), ..Counts::default() }
            }
        }
    }

    fn explain(&self, error: Error) -> Error {
        match self.commit.is_some() || self.idempotency.has_key() {
            true => error,
            false => error.with_retry_hint("send the same request again: AlreadyMember says that it was done"),
        }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Accepted, Abort> {
        let mut added = self.add(x).await?;
        if let Err(Refused { refusal: Refusal::WelcomeWaits, .. }) = added {
            // A refused statement locks nothing, and another replica may replace the Welcome meanwhile.
            epochs::lock_row(x).await?;
            welcomes::withdraw(x, &self.dids).await?;
            added = self.add(x).await?;
            if added.is_err() {
                // The next attempt gives the reason. This one must not commit the withdrawal, as it would with an earlier reply.
                return Err(Abort::Again(Cause::Taken));
            }
        }
        match added {
            Ok(at) => Ok(Accepted::now(at)),
            Err(refused) => self.refusal(x.tx(), &refused).await,
        }
    }
}

impl AddMembers {
    async fn add(&self, x: &mut Exclusive<'_>) -> Result<Result<Position, Refused>, Abort> {
        members::add_one(x, self.new_members(), MAX_MEMBERS).await
    }

    fn new_members(&self) -> NewMembers<'_> {
        let commit = self.commit.as_ref();
        NewMembers {
            convo: &self.convo_id,
            id: &self.entry_id,
            sender: &self.caller,
            epoch: commit.map(|commit| commit.frame.epoch),
            commit: commit.map(|commit| commit.bytes.as_slice()),
            hash: commit.map(|commit| commit.hash.as_slice()),
            dids: &self.dids,
            welcome: self.invitation.welcome.as_ref(),
            key_packages: &self.invitation.key_packages,
            idempotency: self.idempotency.key(),
            now: self.invitation.now,
        }
    }
}

impl Replayable for AddMembers {
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
