//! Somebody notes how far it has followed a conversation, for its other devices.

use ulid::Ulid;

use crate::error::Code;
use crate::ids::{ConvoId, Did, Malformed};
use crate::store::{Abort, Errand, Tx, cursors, events, members, messages};

/// See the module.
#[derive(Debug)]
pub struct UpdateCursor {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// A ULID, or the id of an entry.
    pub cursor: String,
}

impl Errand for UpdateCursor {
    const NAME: &'static str = "updateCursor";
    type Output = ();

    fn concerned(&self) -> Vec<&str> {
        vec![self.caller.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let member = members::membership(tx, &self.convo_id, &self.caller).await?;
        // A cursor that is an entry's id says that this entry was read.
        let entry = match self.cursor.parse() {
            Ok(id) => messages::find_seq(tx, &self.convo_id, &id, member.joined_seq).await?,
            Err(Malformed::Id | Malformed::Did) => None,
        };
        match self.cursor.parse::<Ulid>() {
            Ok(ulid) => cursors::advance(tx, &self.caller, &self.convo_id, &ulid.to_string()).await?,
            // Ids that senders chose have no order, so nothing but the read position moves.
            Err(_) if entry.is_some() => {}
            Err(_) => {
                let message = "cursor must be a ULID, or the id of an entry that you can see in this conversation";
                return Err(Code::InvalidCursor.because(message).into());
            }
        }
        if let Some(seq) = entry {
            events::read(tx, &self.convo_id, &self.caller, Some(seq), Some(&self.cursor)).await?;
        }
        Ok(())
    }
}
