//! resetConvo: a member replaces the MLS group of a conversation by another one. The roster, the log and its seq go on.

use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::ids::{ConvoId, Did};
use crate::mls::GroupInfo;
use crate::store::commit_reports;
use crate::store::groups::{self, NewGroup};
use crate::store::{Abort, Command, Counts, Exclusive, Queries, epochs, group_infos, members};

use super::refusal::{self, MadeIn};
use super::{Idempotency, Invitation, Replayable};

/// The next group of a conversation.
#[derive(Debug)]
pub struct ResetConvo {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// Generation and epoch of the group that it replaces.
    pub prior: Prior,
    pub new: NewGroup,
    pub invitation: Invitation,
    /// GroupInfo of the new group.
    pub group_info: Option<GroupInfo>,
    pub idempotency: Idempotency,
}

/// The state that the caller wants to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Prior {
    pub generation: i64,
    pub epoch: i64,
}

/// A reset that was done, now or by an earlier equal request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reset {
    pub generation: i64,
    /// The epoch that the new group began in.
    pub epoch: i64,
    /// Seq of the entry that began it.
    pub seq: i64,
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

impl Command for ResetConvo {
    const NAME: &'static str = "resetConvo";
    type Output = Reset;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.caller
    }

    /// It takes its part of the member's budget for commits.
    fn commits(&self) -> bool {
        true
    }

    fn affected(&self) -> Vec<&Did> {
        self.recipients()
    }

    fn counts(&self, reset: &Reset) -> Counts {
        Counts { resets: u64::from(!reset.replayed), ..Counts::default() }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Reset, Abort> {
        if let Some(earlier) = self.replay(x.tx()).await? {
            return Ok(earlier);
        }
        let at = epochs::lock_row(x).await?;
        let member = members::membership(x.tx(), &self.convo_id, &self.caller).await?;
        // Another replica may have done an equal request while this one waited for the row.
        if let Some(earlier) = self.replay(x.tx()).await? {
            return Ok(earlier);
        }
        let Prior { generation, epoch } = self.prior;
        if (generation, epoch) != (member.generation, at.epoch) {
            let made_in = MadeIn { generation: Some(generation), epoch, incarnation: None };
            return Err(refusal::epoch_mismatch(x.tx(), &self.convo_id, &self.caller, made_in, at).await);
        }
        if members::admin(x).await?.as_ref() != Some(&self.caller) && !commit_reports::is_wedged(x).await? {
            let message = "only the conversation's admin may reset it, or any member while it is wedged";
            return Err(Code::NotAuthorized.because(message).into());
        }
        let recipients = self.recipients();
        if let Some(did) = members::absent(x, &recipients).await?.first() {
            return Err(Code::InvalidRequest
                .because(format!("keyPackageHashes names {did}, who is not a member"))
                .into());
        }
        let inside: Vec<&Did> = std::iter::once(&self.caller).chain(recipients.iter().copied()).collect();
        let reset = groups::reset(x, (generation, epoch), &self.new, &self.caller, &inside, &recipients).await?;
        let at = reset.ok_or_else(|| Code::ConvoAlreadyExists.because("this newGroupId is taken"))?;
        self.invitation.deliver(x, &self.caller, generation + 1, at.epoch).await?;
        if let Some(group_info) = &self.group_info {
            group_infos::replace(x, group_info, &self.caller).await?;
        }
        let reset = Reset { generation: generation + 1, epoch: at.epoch, seq: at.seq, replayed: false };
        self.idempotency.record(x.tx(), &reset).await?;
        Ok(reset)
    }
}

impl ResetConvo {
    /// People for whom there is a Welcome, each once.
    fn recipients(&self) -> Vec<&Did> {
        let mut recipients: Vec<&Did> =
            self.invitation.welcome.iter().flat_map(|welcome| &welcome.recipients).map(|to| &to.did).collect();
        recipients.sort_unstable();
        recipients.dedup();
        recipients
    }
}

impl Replayable for ResetConvo {
    type Output = Reset;

    /// Without a key, a reset is recognised by the group that it began.
    async fn replay(&self, db: &impl Queries) -> Result<Option<Reset>, Abort> {
        if let Some(earlier) = self.idempotency.replay(db).await? {
            return Ok(Some(earlier));
        }
        let found = groups::find_reset(db, &self.convo_id, &self.new.id, &self.caller).await?;
        let found = found.filter(|(generation, _)| *generation == self.prior.generation + 1);
        Ok(found.map(|(generation, at)| Reset { generation, epoch: at.epoch, seq: at.seq, replayed: true }))
    }

    fn is_new(reset: &Reset) -> bool {
        !reset.replayed
    }
}
