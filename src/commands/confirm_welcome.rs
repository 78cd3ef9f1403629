//! confirmWelcome: a recipient reports that it joined, which deletes its Welcome, or that it could not, which keeps it and tells the
//! members.

use crate::ids::{ConvoId, Did};
use crate::store::welcomes::{self, WelcomeSelector, WelcomeState};
use crate::store::{Abort, Command, Exclusive, epochs, members};

/// A recipient's report about its Welcome.
#[derive(Debug)]
pub struct ConfirmWelcome {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub success: bool,
    pub error_details: Option<String>,
    pub which: WelcomeSelector,
}

impl Command for ConfirmWelcome {
    const NAME: &'static str = "confirmWelcome";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.caller
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<(), Abort> {
        members::membership(x.tx(), &self.convo_id, &self.caller).await?;
        match welcomes::state(x.tx(), &self.convo_id, &self.caller, &self.which).await? {
            // Already confirmed; nothing to do.
            WelcomeState::Opened => Ok(()),
            WelcomeState::Waits { .. } if self.success => {
                epochs::lock_row(x).await?;
                welcomes::confirm(x, &self.caller, &self.which).await
            }
            WelcomeState::Waits { .. } => {
                epochs::lock_row(x).await?;
                welcomes::report(x, &self.caller, &self.which, self.error_details.as_deref()).await
            }
        }
    }
}
