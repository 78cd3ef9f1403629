//! leaveConvo: a member leaves, or the admin removes another member: from the roster, or from the group only if that one has left before.

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::Commit;
use crate::store::epochs::{self, Swap};
use crate::store::members::MemberRecord;
use crate::store::messages::{self, AppMessage, NewCommit, NewMessage};
use crate::store::{Abort, Command, Counts, Exclusive, Position, Queries, Refusal, Refused, members};

use super::refusal::{self, MadeIn};
use super::send_message::too_many_proposals;
use super::{Accepted, Idempotency, Replayable, replayable};

/// A member that leaves a conversation or is removed from it.
#[derive(Debug)]
pub struct LeaveConvo {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub target: Did,
    pub commit: Option<Commit>,
    /// The caller's proposal that it be removed, for the next committer. Only without a commit.
    pub proposal: Option<AppMessage>,
    /// The commit's id in the log.
    pub entry_id: EntryId,
    /// The server's incarnation that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub idempotency: Idempotency,
}

impl Command for LeaveConvo {
    const NAME: &'static str = "leaveConvo";
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
        vec![&self.target]
    }

    fn counts(&self, accepted: &Accepted) -> Counts {
        Counts { epochs: u64::from(!accepted.replayed && self.commit.is_some()), ..Counts::default() }
    }

    /// A commit is recognised by its bytes, and a member that has left by that.
    fn explain(&self, error: Error) -> Error {
        match self.commit.is_some() || self.target == self.caller || self.idempotency.has_key() {
            true => error,
            false => error.with_retry_hint("send the same request again: TargetNotMember says that it was done"),
        }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Accepted, Abort> {
        if let Some(earlier) = self.idempotency.replay(x.tx()).await? {
            return Ok(earlier);
        }
        // Checked before the row is locked, so that a replay writes nothing.
        if self.target == self.caller
            && let Some(caller) = members::record(x.tx(), &self.convo_id, &self.caller).await?
            && let Some(accepted) = self.left_before(&caller)
        {
            return Ok(accepted);
        }
        let at = match &self.commit {
            None => epochs::lock_row(x).await?,
            Some(commit) => match step(x, &self.caller, commit, &self.entry_id, self.incarnation.as_deref()).await? {
                Step::Taken(at) => at,
                Step::Replayed(accepted) => return Ok(accepted),
            },
        };
        let caller = members::record(x.tx(), &self.convo_id, &self.caller).await?.ok_or_else(epochs::not_found)?;
        if let Some(accepted) = self.left_before(&caller) {
            return Ok(accepted);
        }
        caller.active()?;
        // Another replica may have done an equal request while this one waited for the row.
        if self.commit.is_none()
            && let Some(earlier) = self.idempotency.replay(x.tx()).await?
        {
            return Ok(earlier);
        }
        let at = match &self.proposal {
            None => at,
            Some(proposal) => self.propose(x, proposal).await?,
        };
        if self.is_on_roster(x).await? {
            members::leave(x, &self.target, &self.caller, at).await?;
        }
        let accepted = Accepted::now(at);
        self.idempotency.record(x.tx(), &accepted).await?;
        Ok(accepted)
    }
}

impl LeaveConvo {
    /// Leaving again replays the first departure. A member that was removed did not leave.
    fn left_before(&self, caller: &MemberRecord) -> Option<Accepted> {
        let left = caller.left.as_ref()?;
        (self.target == self.caller && self.commit.is_none() && left.by == self.caller)
            .then(|| Accepted::replayed(left.at))
    }

    /// Appends the proposal, unless the caller has submitted it before. Returns the position of the conversation.
    async fn propose(&self, x: &mut Exclusive<'_>, proposal: &AppMessage) -> Result<Position, Abort> {
        let message = NewMessage { convo: &self.convo_id, message: proposal, idempotency: None };
        match messages::send_one(x, message, 0).await? {
            Ok(appended) => Ok(appended.at),
            Err(Refused { refusal: Refusal::BytesKnown, at: Some(at), .. }) => Ok(at),
            Err(Refused { refusal: Refusal::OtherEpoch, at: Some(at), .. }) => {
                let made_in = MadeIn { epoch: proposal.epoch, incarnation: self.incarnation.as_deref() };
                Err(refusal::epoch_mismatch(x.tx(), &self.convo_id, &self.caller, made_in, at).await)
            }
            Err(Refused { refusal: Refusal::TooManyProposals, .. }) => Err(too_many_proposals().into()),
            Err(refused) => Err(Error::internal(format!("a leaver's proposal was refused: {refused:?}")).into()),
        }
    }

    /// Returns whether the target is on the roster. Errors if the caller may not remove it. A target that has left the roster may still be
    /// in the group, and a commit may clean that up without a change of the roster. The server cannot see whom a commit removes, so such
    /// a commit needs the same right as any removal; otherwise any member could remove any other.
    async fn is_on_roster(&self, x: &Exclusive<'_>) -> Result<bool, Abort> {
        if self.target == self.caller {
            return match members::count(x).await? {
                1 => Err(Code::LastMember.because("the last member cannot leave").into()),
                _ => Ok(true),
            };
        }
        let is_on_roster = match members::record(x.tx(), &self.convo_id, &self.target).await? {
            Some(MemberRecord { left: None, .. }) => true,
            Some(_) if self.commit.is_some() => false,
            _ => return Err(Code::TargetNotMember.because("targetDid is not a member of this conversation").into()),
        };
        match members::admin(x).await?.as_ref() == Some(&self.caller) {
            true => Ok(is_on_roster),
            false => Err(Code::NotAuthorized.because("only the conversation's admin may remove others").into()),
        }
    }
}

impl Replayable for LeaveConvo {
    type Output = Accepted;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Accepted>, Abort> {
        replayable::with_commit(db, &self.idempotency, &self.convo_id, self.commit.as_ref(), &self.caller).await
    }

    fn is_new(accepted: &Accepted) -> bool {
        !accepted.replayed
    }
}

/// Outcome of a commit.
enum Step {
    /// It was accepted, and the conversation stands here.
    Taken(Position),
    /// The same bytes from the same sender were accepted before, here.
    Replayed(Accepted),
}

/// Takes the step to the next epoch with a member's commit: the compare-and-swap, then the log entry. A commit of another epoch is refused
/// with the commits that its sender lacks.
async fn step(
    x: &mut Exclusive<'_>,
    caller: &Did,
    commit: &Commit,
    id: &EntryId,
    incarnation: Option<&str>,
) -> Result<Step, Abort> {
    let made_in = MadeIn { epoch: commit.frame.epoch, incarnation };
    let entry = NewCommit { id, sender: caller, bytes: &commit.bytes, hash: &commit.hash };
    match epochs::advance(x, made_in.epoch, &entry).await? {
        // The epoch is also over for a replay of the commit that won it. It is looked up only now, because another replica may have just
        // accepted the same bytes.
        (Swap::Lost(at), _) => match messages::find_commit(x.tx(), x.convo(), &commit.hash, caller).await? {
            Some(earlier) => Ok(Step::Replayed(Accepted::replayed(earlier))),
            None => Err(refusal::epoch_mismatch(x.tx(), x.convo(), caller, made_in, at).await),
        },
        (Swap::To(at), true) => Ok(Step::Taken(at)),
        (Swap::To(_), false) => {
            members::membership(x.tx(), x.convo(), caller).await?;
            Err(Error::internal("a member's commit was not appended").into())
        }
    }
}
