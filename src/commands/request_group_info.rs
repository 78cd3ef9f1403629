//! groupInfoRefresh, and getGroupInfo without one: a member asks the others for a GroupInfo of the present epoch.

use crate::ids::{ConvoId, Did};
use crate::store::{Abort, Transaction, Tx, group_infos, members, not_found};

/// A member that needs a GroupInfo.
#[derive(Debug)]
pub struct RequestGroupInfo {
    pub convo_id: ConvoId,
    pub caller: Did,
}

impl Transaction for RequestGroupInfo {
    const NAME: &'static str = "groupInfoRefresh";
    /// Number of members.
    type Output = i64;

    fn affected(&self) -> Vec<&str> {
        vec![self.convo_id.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<i64, Abort> {
        if let Some(members) = group_infos::request(tx, &self.convo_id, &self.caller).await? {
            return Ok(members);
        }
        members::membership(tx, &self.convo_id, &self.caller).await?;
        // It was added between the two statements.
        group_infos::request(tx, &self.convo_id, &self.caller).await?.ok_or_else(|| not_found().into())
    }
}
