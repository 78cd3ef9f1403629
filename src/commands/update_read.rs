//! updateRead: a member has read a conversation up to an entry, or all of it. Its other devices are notified.

use crate::error::Code;
use crate::ids::{ConvoId, Did, EntryId};
use crate::store::events::{self, ReadTo};
use crate::store::{Abort, Transaction, Tx, members, messages};

/// A member's read position in a conversation.
#[derive(Debug)]
pub struct UpdateRead {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// The entry; `None` for the newest.
    pub message_id: Option<EntryId>,
}

impl Transaction for UpdateRead {
    const NAME: &'static str = "updateRead";
    type Output = ReadTo;

    fn affected(&self) -> Vec<&str> {
        vec![self.caller.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<ReadTo, Abort> {
        let member = members::membership(tx, &self.convo_id, &self.caller).await?;
        let seq = match &self.message_id {
            None => None,
            Some(id) => match messages::find_seq(tx, &self.convo_id, id, member.joined_seq).await? {
                Some(seq) => Some(seq),
                None => return Err(Code::MessageNotFound.because("you cannot see an entry with this id").into()),
            },
        };
        let entry = self.message_id.as_ref().map(EntryId::as_str);
        match events::read(tx, &self.convo_id, &self.caller, seq, entry).await? {
            Some(read) => Ok(read),
            None => Err(Code::NotMember.because("you are no longer a member of this conversation").into()),
        }
    }
}
