//! A recipient says that it joined, which destroys its Welcome, or that it could not, which keeps it.

use crate::error::Code;
use crate::ids::{ConvoId, Did};
use crate::store::{Abort, Command, Exclusive, members, welcomes};

/// See the module.
#[derive(Debug)]
pub struct ConfirmWelcome {
    pub convo_id: ConvoId,
    pub caller: Did,
    pub success: bool,
    pub error_details: Option<String>,
    /// Only the line for this key package; `None` means all of the caller's.
    pub key_package_hash: Option<Vec<u8>>,
}

impl Command for ConfirmWelcome {
    const NAME: &'static str = "confirmWelcome";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<(), Abort> {
        members::membership(x.tx(), &self.convo_id, &self.caller).await?;
        let hash = self.key_package_hash.as_deref();
        if welcomes::find(x.tx(), &self.convo_id, &self.caller, hash).await?.is_none() {
            return Err(Code::WelcomeNotFound.because("no Welcome was ever waiting for you here").into());
        }
        if self.success {
            welcomes::confirm(x, &self.caller, hash).await?;
        } else {
            welcomes::report(x, &self.caller, hash, self.error_details.as_deref()).await?;
        }
        Ok(())
    }
}
