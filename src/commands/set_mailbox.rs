//! setMailbox: a person sets the mailbox that its entries are delivered to, in one conversation or in all, or removes it.

use crate::ids::{ConvoId, Did};
use crate::store::mailboxes::{self, Webhook};
use crate::store::{Abort, Transaction, Tx, members};

/// A person's mailbox.
#[derive(Debug)]
pub struct SetMailbox {
    pub caller: Did,
    /// `None`: every conversation that has no mailbox of its own, those to come included.
    pub convo_id: Option<ConvoId>,
    /// `None`: no mailbox.
    pub mailbox: Option<Webhook>,
}

impl Transaction for SetMailbox {
    const NAME: &'static str = "setMailbox";
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        if let Some(convo) = &self.convo_id {
            members::membership(tx, convo, &self.caller).await?;
        }
        mailboxes::set(tx, &self.caller, self.convo_id.as_ref(), self.mailbox.as_ref()).await
    }
}
