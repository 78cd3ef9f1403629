//! `admin erase` beside the conversations: mailboxes first, so that nothing more is delivered, and at last everything else.

use crate::ids::Did;
use crate::store::erasure::{self, Tally};
use crate::store::{Abort, Transaction, Tx, key_packages};

use super::Erased;

/// The mailboxes of a person, to delete.
#[derive(Debug)]
pub struct EraseMailboxes {
    pub did: Did,
}

impl Transaction for EraseMailboxes {
    const NAME: &'static str = "eraseMailboxes";
    type Output = Tally;

    async fn execute(&self, tx: &Tx) -> Result<Tally, Abort> {
        erasure::mailboxes(tx, &self.did).await
    }
}

/// A person to erase, who is in no conversation any more.
#[derive(Debug)]
pub struct ErasePerson {
    pub did: Did,
    /// Maximum number of rows of each table.
    pub rows: i64,
}

impl Transaction for ErasePerson {
    const NAME: &'static str = "erasePerson";
    type Output = Erased;

    async fn execute(&self, tx: &Tx) -> Result<Erased, Abort> {
        // No request publishes or issues a package of the person meanwhile, or registers a device.
        key_packages::lock_owner(tx, &self.did).await?;
        let (counts, more) = erasure::beside_convos(tx, &self.did, self.rows).await?;
        Ok(Erased { counts, over: false, more })
    }
}
