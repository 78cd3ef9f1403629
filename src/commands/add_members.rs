//! A member adds others: with the commit that does so in the group, or on the roster alone.

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::Commit;
use crate::store::epochs::{self, Swap};
use crate::store::messages::{self, NewCommit};
use crate::store::{Abort, Command, Exclusive, Position, Reader, members};

use super::refusal::{self, MadeIn};
use super::{Invitation, Landed, MAX_MEMBERS, Once, Repeatable, repeatable};

/// See the module.
#[derive(Debug)]
pub struct AddMembers {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// Whom to add; not empty, no duplicates.
    pub dids: Vec<Did>,
    pub commit: Option<Commit>,
    /// The commit's id in the log.
    pub entry_id: EntryId,
    pub invitation: Invitation,
    /// The incarnation of the server that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub once: Once,
}

/// Whoever adds more people and uses up more key packages than this does it in a transaction of its own.
const FEW: usize = 32;

impl Command for AddMembers {
    const NAME: &'static str = "addMembers";
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
        self.dids.iter().collect()
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Landed, Abort> {
        if let Some(earlier) = self.once.earlier(x.tx()).await? {
            return Ok(earlier);
        }
        let at = match &self.commit {
            None => {
                let at = epochs::hold(x).await?;
                members::membership(x.tx(), &self.convo_id, &self.caller).await?;
                // By this very request, perhaps, at another replica while this one waited for the row.
                if let Some(earlier) = self.once.earlier(x.tx()).await? {
                    return Ok(earlier);
                }
                at
            }
            Some(commit) => match step(x, &self.caller, commit, &self.entry_id, self.incarnation.as_deref()).await? {
                Step::Taken(at) => at,
                Step::Earlier(landed) => return Ok(landed),
            },
        };
        let added: Vec<&Did> = self.dids.iter().collect();
        let before = members::join(x, &added, at, &self.caller, self.invitation.welcome.is_some()).await?;
        if let Some(did) = before.present.first() {
            return Err(Code::AlreadyMember.because(format!("{did} is already a member")).into());
        }
        if before.active + self.dids.len() as i64 > MAX_MEMBERS {
            return Err(too_many().into());
        }
        self.invitation.deliver(x, &self.caller, at.epoch).await?;
        let landed = Landed::now(at);
        self.once.remember(x.tx(), &landed).await?;
        Ok(landed)
    }
}

impl AddMembers {
    /// Whether it may share a transaction with others. Without a commit it could not be told from another that adds the same people,
    /// should the answer be lost.
    pub fn is_shareable(&self) -> bool {
        self.commit.is_some() && self.dids.len() + self.invitation.key_packages.len() <= FEW
    }

    /// What it is answered where its epoch is over, because the conversation stands at `at`: no lock can bring that back.
    pub(super) async fn lost(&self, db: &Reader, at: Position) -> Result<Option<Landed>, Abort> {
        let commit = match &self.commit {
            Some(commit) if commit.frame.epoch < at.epoch => commit,
            _ => return Ok(None),
        };
        match self.earlier(db).await? {
            Some(earlier) => Ok(Some(earlier)),
            None => {
                let made_in = MadeIn { epoch: commit.frame.epoch, incarnation: self.incarnation.as_deref() };
                Err(refusal::epoch_mismatch(db, &self.convo_id, &self.caller, made_in, at).await)
            }
        }
    }
}

impl Repeatable for AddMembers {
    type Output = Landed;

    async fn earlier(&self, db: &Reader) -> Result<Option<Landed>, Abort> {
        repeatable::with_commit(db, &self.once, &self.convo_id, self.commit.as_ref(), &self.caller).await
    }

    fn is_new(landed: &Landed) -> bool {
        !landed.repeated
    }
}

/// The refusal of one member too many.
pub(crate) fn too_many() -> Error {
    Code::TooManyMembers.because(format!("a conversation has at most {MAX_MEMBERS} members"))
}

/// What became of a commit.
pub(super) enum Step {
    /// It won, is in the log, and the conversation stands here.
    Taken(crate::store::Position),
    /// The same bytes from the same sender won long ago, here.
    Earlier(Landed),
}

/// Takes the step that a member's commit asks for: the compare-and-swap, then the entry. A commit for another epoch is
/// refused with what its sender, who heard from that incarnation last, needs to catch up.
pub(super) async fn step(
    x: &mut Exclusive<'_>,
    caller: &Did,
    commit: &Commit,
    id: &EntryId,
    incarnation: Option<&str>,
) -> Result<Step, Abort> {
    let made_in = MadeIn { epoch: commit.frame.epoch, incarnation };
    let entry = NewCommit { id, sender: caller, bytes: &commit.bytes, hash: &commit.hash };
    match epochs::advance(x, made_in.epoch, &entry).await? {
        // Its epoch is over, which is so too for one that won it. Looked up only now, when what is read is the present: the
        // same bytes may just have been accepted by another replica.
        (Swap::Lost(at), _) => match messages::find_commit(x.tx(), x.convo(), &commit.hash, caller).await? {
            Some(earlier) => Ok(Step::Earlier(Landed::earlier(earlier))),
            None => Err(refusal::epoch_mismatch(x.tx(), x.convo(), caller, made_in, at).await),
        },
        (Swap::To(at), true) => Ok(Step::Taken(at)),
        (Swap::To(_), false) => {
            members::membership(x.tx(), x.convo(), caller).await?;
            Err(Error::internal("a member's commit was not appended").into())
        }
    }
}
