//! updateGroupInfo: a member stores the GroupInfo of the epoch that the conversation is in.

use crate::ids::{ConvoId, Did};
use crate::mls::GroupInfo;
use crate::store::{Abort, Command, Exclusive, epochs, group_infos, members};

use super::refusal::{self, MadeIn};

/// A GroupInfo that the caller has signed.
#[derive(Debug)]
pub struct UpdateGroupInfo {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// Number of the group that the GroupInfo is of.
    pub generation: i64,
    pub group_info: GroupInfo,
}

impl Command for UpdateGroupInfo {
    const NAME: &'static str = "updateGroupInfo";
    /// The conversation's epoch, which is also the GroupInfo's.
    type Output = i64;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.caller
    }

    /// Locks the row first, so that no commit moves the epoch before the GroupInfo is stored. Another GroupInfo of the same epoch leads to
    /// the same group and is replaced.
    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<i64, Abort> {
        let at = epochs::lock_row(x).await?;
        let member = members::membership(x.tx(), &self.convo_id, &self.caller).await?;
        let epoch = self.group_info.frame.epoch;
        if (self.generation, epoch) != (member.generation, at.epoch) {
            let made_in = MadeIn { generation: Some(self.generation), epoch, incarnation: None };
            return Err(refusal::epoch_mismatch(x.tx(), &self.convo_id, &self.caller, made_in, at).await);
        }
        group_infos::replace(x, &self.group_info, &self.caller).await?;
        Ok(epoch)
    }
}
