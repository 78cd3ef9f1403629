//! Somebody notes how far it has followed a conversation, for its other devices.

use ulid::Ulid;

use crate::error::Code;
use crate::events::cursor::Sealed;
use crate::ids::{ConvoId, Did, Malformed};
use crate::store::{Abort, Transaction, Tx, cursors, events, members, messages};

/// See the module.
#[derive(Debug)]
pub struct UpdateCursor {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// A ULID, the cursor of an event, or the id of an entry.
    pub cursor: String,
}

impl Transaction for UpdateCursor {
    const NAME: &'static str = "updateCursor";
    type Output = ();

    fn affected(&self) -> Vec<&str> {
        vec![self.caller.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let member = members::membership(tx, &self.convo_id, &self.caller).await?;
        // A cursor that is an entry's id says that this entry was read.
        let entry = match self.cursor.parse() {
            Ok(id) => messages::find_seq(tx, &self.convo_id, &id, member.joined_seq).await?,
            Err(Malformed::Id | Malformed::Did) => None,
        };
        // Both begin with their time, so that one order holds for all.
        let place = match self.cursor.parse::<Ulid>() {
            Ok(ulid) => Ok(ulid.to_string()),
            Err(_) => self.cursor.parse::<Sealed>().map(|cursor| cursor.text().to_owned()),
        };
        match place {
            Ok(place) => cursors::advance(tx, &self.caller, &self.convo_id, &place).await?,
            // Ids that senders chose have no order, so nothing but the read position moves.
            Err(_) if entry.is_some() => {}
            Err(_) => {
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
