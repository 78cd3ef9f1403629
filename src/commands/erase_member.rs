//! `admin erase` in one conversation: the person leaves it as by leaveConvo, and what is stored of it there goes, except its entries and
//! what they need.

use crate::ids::{ConvoId, Did};
use crate::store::erasure::{self, Tally};
use crate::store::members::{self, MemberRecord};
use crate::store::{Abort, Command, Exclusive, ending, epochs};

/// A person to erase from one conversation.
#[derive(Debug)]
pub struct EraseMember {
    pub convo_id: ConvoId,
    pub did: Did,
    /// Maximum number of rows of each table.
    pub rows: i64,
}

/// What one portion has changed.
#[derive(Debug)]
pub struct Erased {
    pub counts: Tally,
    /// The conversation has ended, by this or before.
    pub over: bool,
    /// There may be more to do.
    pub more: bool,
}

impl Command for EraseMember {
    const NAME: &'static str = "eraseMember";
    type Output = Erased;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.did
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Erased, Abort> {
        let at = epochs::lock_row(x).await?;
        let (mut counts, more) = erasure::in_convo(x, &self.did, self.rows).await?;
        if more {
            return Ok(Erased { counts, over: false, more });
        }
        if let Some(MemberRecord { left: None, .. }) = members::record(x.tx(), &self.convo_id, &self.did).await? {
            members::leave(x, &self.did, &self.did, at).await?;
            counts.insert("conversations".to_owned(), 1);
            counts.insert("endedConversations".to_owned(), ending::end_empty(x).await?.into());
        }
        let (deleted, over) = erasure::membership(x, &self.did).await?;
        counts.insert("memberships".to_owned(), deleted);
        Ok(Erased { counts, over, more })
    }
}
