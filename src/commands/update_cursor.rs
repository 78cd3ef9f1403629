//! updateCursor: a member records how far it has followed a conversation, for its other devices.

use crate::error::Code;
use crate::ids::{ConvoId, Did, Malformed};
use crate::store::{Abort, Transaction, Tx, cursors, events, members, messages};

/// A member's position in a conversation.
#[derive(Debug)]
pub struct UpdateCursor {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// As the client wrote it. An entry with this id counts as read.
    pub cursor: String,
    /// The spelling that sorts by time; `None` if the cursor is neither a ULID nor the cursor of an event.
    pub sortable: Option<String>,
}

impl Transaction for UpdateCursor {
    const NAME: &'static str = "updateCursor";
    type Output = ();

    fn affected(&self) -> Vec<&str> {
        vec![self.caller.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let member = members::membership(tx, &self.convo_id, &self.caller).await?;
        // A cursor that is an entry's id also marks that entry as read.
        let entry = match self.cursor.parse() {
            Ok(id) => messages::find_seq(tx, &self.convo_id, &id, member.joined_seq).await?,
            Err(Malformed::Id | Malformed::Convo | Malformed::Did | Malformed::Blob) => None,
        };
        match &self.sortable {
            Some(cursor) => cursors::advance(tx, &self.caller, &self.convo_id, cursor).await?,
            // Ids that senders chose have no order, so only the read position moves.
            None if entry.is_some() => {}
            None => {
                let message = "cursor must be a ULID, the cursor of an event, or the id of an entry that you can see in this conversation";
                return Err(Code::InvalidCursor.because(message).into());
            }
        }
        if let Some(seq) = entry {
            events::read(tx, &self.convo_id, &self.caller, Some(seq), Some(&self.cursor)).await?;
        }
        Ok(())
    }
}
