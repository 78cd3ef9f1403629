//! A member leaves, or one who may removes another, on the roster or, if that one has left it before, from the group only.

use crate::error::Code;
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::Commit;
use crate::store::members::MemberRecord;
use crate::store::{Abort, Command, Exclusive, Reader, epochs, members};

use super::add_members::{Step, step};
use super::{Landed, Once, Repeatable, repeatable};

/// See the module.
#[derive(Debug)]
pub struct LeaveConvo {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub target: Did,
    pub commit: Option<Commit>,
    /// The commit's id in the log.
    pub entry_id: EntryId,
    /// The incarnation of the server that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub once: Once,
}

impl Command for LeaveConvo {
    const NAME: &'static str = "leaveConvo";
    type Output = Landed;

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

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Landed, Abort> {
        if let Some(earlier) = self.once.earlier(x.tx()).await? {
            return Ok(earlier);
        }
        // Before the position is held, so that a repetition writes nothing at all.
        if self.target == self.caller
            && let Some(caller) = members::record(x.tx(), &self.convo_id, &self.caller).await?
            && let Some(landed) = self.left_before(&caller)
        {
            return Ok(landed);
        }
        let at = match &self.commit {
            None => epochs::hold(x).await?,
            Some(commit) => match step(x, &self.caller, commit, &self.entry_id, self.incarnation.as_deref()).await? {
                Step::Taken(at) => at,
                Step::Earlier(landed) => return Ok(landed),
            },
        };
        let caller = members::record(x.tx(), &self.convo_id, &self.caller).await?.ok_or_else(epochs::not_found)?;
        if let Some(landed) = self.left_before(&caller) {
            return Ok(landed);
        }
        caller.active()?;
        // By this very request, perhaps, at another replica while this one waited for the row.
        if self.commit.is_none()
            && let Some(earlier) = self.once.earlier(x.tx()).await?
        {
            return Ok(earlier);
        }
        if self.is_on_roster(x).await? {
            members::leave(x, &self.target, &self.caller, at).await?;
        }
        let landed = Landed::now(at);
        self.once.remember(x.tx(), &landed).await?;
        Ok(landed)
    }
}

impl LeaveConvo {
    /// Leaving again is the same request again: it gets what the first one got. Whoever was removed did not leave.
    fn left_before(&self, caller: &MemberRecord) -> Option<Landed> {
        let left = caller.left.as_ref()?;
        (self.target == self.caller && self.commit.is_none() && left.by == self.caller)
            .then(|| Landed::earlier(left.at))
    }

    /// Whether the target is on the roster, and the caller may take it off. Somebody who is off it already may still be in the
    /// group: a commit may clean up after that, which changes nothing here. Whom a commit removes cannot be seen here, so that takes
    /// the same right as any removal; else it would be a way for any member to take out anybody.
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

impl Repeatable for LeaveConvo {
    type Output = Landed;

    async fn earlier(&self, db: &Reader) -> Result<Option<Landed>, Abort> {
        repeatable::with_commit(db, &self.once, &self.convo_id, self.commit.as_ref(), &self.caller).await
    }

    fn is_new(landed: &Landed) -> bool {
        !landed.repeated
    }
}
