//! `admin delete`: an operator ends a conversation and deletes its content.

use crate::ids::{ConvoId, Did};
use crate::store::ending::{self, Deleted};
use crate::store::{Abort, Command, Exclusive};

/// A conversation to delete, one portion at a time: first its members are removed, then its content is deleted.
#[derive(Debug)]
pub struct DeleteConvo {
    pub convo_id: ConvoId,
    /// DID of the service, for which the operator acts.
    pub service: Did,
    /// Maximum number of rows of each table.
    pub rows: i64,
    /// Seq up to which the log was emptied by earlier portions.
    pub after: i64,
}

impl Command for DeleteConvo {
    const NAME: &'static str = "deleteConvo";
    type Output = Deleted;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.service
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Deleted, Abort> {
        ending::delete(x, self.rows, self.after).await
    }
}
