//! leaveConvo and removeMember without a commit: a member leaves the roster, or the admin takes another member off it.

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::store::members::MemberRecord;
use crate::store::messages::{self, AppMessage, NewMessage};
use crate::store::{Abort, Command, Exclusive, Position, Queries, Refusal, Refused, epochs, members};

use super::refusal::{self, MadeIn};
use super::send_message::too_many_proposals;
use super::{Accepted, Idempotency, Replayable};

/// A member that leaves a conversation or is removed from it, on the roster alone.
#[derive(Debug)]
pub struct LeaveConvo {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub target: Did,
    /// The caller's proposal that it be removed, for the next committer.
    pub proposal: Option<AppMessage>,
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

    fn affected(&self) -> Vec<&Did> {
        vec![&self.target]
    }

    /// A member that has left is recognised by that.
    fn explain(&self, error: Error) -> Error {
        match self.target == self.caller || self.idempotency.has_key() {
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
        let at = epochs::lock_row(x).await?;
        let caller = members::record(x.tx(), &self.convo_id, &self.caller).await?.ok_or_else(epochs::not_found)?;
        if let Some(accepted) = self.left_before(&caller) {
            return Ok(accepted);
        }
        caller.active()?;
        // Another replica may have done an equal request while this one waited for the row.
        if let Some(earlier) = self.idempotency.replay(x.tx()).await? {
            return Ok(earlier);
        }
        let at = match &self.proposal {
            None => at,
            Some(proposal) => self.propose(x, proposal).await?,
        };
        self.check_right(x).await?;
        members::leave(x, &self.target, &self.caller, at).await?;
        let accepted = Accepted::now(at);
        self.idempotency.record(x.tx(), &accepted).await?;
        Ok(accepted)
    }
}

impl LeaveConvo {
    /// Leaving again replays the first departure. A member that was removed did not leave.
    fn left_before(&self, caller: &MemberRecord) -> Option<Accepted> {
        let left = caller.left.as_ref()?;
        (self.target == self.caller && left.by == self.caller).then(|| Accepted::replayed(left.at))
    }

    /// Appends the proposal, unless the caller has submitted it before. Returns the position of the conversation.
    async fn propose(&self, x: &mut Exclusive<'_>, proposal: &AppMessage) -> Result<Position, Abort> {
        let message = NewMessage { convo: &self.convo_id, message: proposal, idempotency: None };
        match messages::send_one(x, message, 0).await? {
            Ok(appended) => Ok(appended.at),
            Err(Refused { refusal: Refusal::BytesKnown, at: Some(at), .. }) => Ok(at),
            Err(Refused { refusal: Refusal::OtherEpoch | Refusal::OtherGeneration, at: Some(at), .. }) => {
                let made_in = MadeIn {
                    generation: proposal.generation,
                    epoch: proposal.epoch,
                    incarnation: self.incarnation.as_deref(),
                };
                Err(refusal::epoch_mismatch(x.tx(), &self.convo_id, &self.caller, made_in, at).await)
            }
            Err(Refused { refusal: Refusal::TooManyProposals, .. }) => Err(too_many_proposals().into()),
            Err(refused) => Err(Error::internal(format!("a leaver's proposal was refused: {refused:?}")).into()),
        }
    }

    /// Errors if the target is not a member or may not go, or if the caller may not remove it.
    async fn check_right(&self, x: &Exclusive<'_>) -> Result<(), Abort> {
        if self.target == self.caller {
            return match members::count(x).await? {
                1 => Err(members::last_one().into()),
                _ => Ok(()),
            };
        }
        match members::record(x.tx(), &self.convo_id, &self.target).await? {
            Some(MemberRecord { left: None, .. }) => {}
            _ => return Err(members::not_a_target(self.target.as_str()).into()),
        }
        match members::admin(x).await?.as_ref() == Some(&self.caller) {
            true => Ok(()),
            false => Err(members::not_admin().into()),
        }
    }
}

impl Replayable for LeaveConvo {
    type Output = Accepted;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Accepted>, Abort> {
        self.idempotency.replay(db).await
    }

    fn is_new(accepted: &Accepted) -> bool {
        !accepted.replayed
    }
}
