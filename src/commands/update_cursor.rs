//! Somebody notes how far it has followed a conversation, for its other devices.

use crate::ids::{ConvoId, Did};
use crate::store::{Abort, Errand, Tx, cursors, members, messages};

/// See the module.
#[derive(Debug)]
pub struct UpdateCursor {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// A ULID.
    pub cursor: String,
}

impl Errand for UpdateCursor {
    const NAME: &'static str = "updateCursor";
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let member = members::membership(tx, &self.convo_id, &self.caller).await?;
        cursors::advance(tx, &self.caller, &self.convo_id, &self.cursor).await?;
        // A cursor that is an entry's id says that this entry was read.
        let entry = self.cursor.parse().map_err(crate::error::Error::internal)?;
        if let Some(seq) = messages::find_seq(tx, &self.convo_id, &entry, member.joined_seq).await? {
            cursors::read(tx, &[self.convo_id.to_string()], &[self.caller.to_string()], &[seq]).await?;
        }
        Ok(())
    }
}
