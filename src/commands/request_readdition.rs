//! readdition and rejoin: a member asks the others to add it to the MLS group again, perhaps with a key package for that.

use serde_json::{Map, Value, json};

use crate::ids::{ConvoId, Did};
use crate::store::key_packages::{self, NewKeyPackage};
use crate::store::readditions::{self, NewRequest, Requested};
use crate::store::{Abort, Transaction, Tx, members, not_found};

use super::publish_key_packages::store_each;

/// A member's request to be added again.
#[derive(Debug)]
pub struct RequestReaddition {
    pub convo_id: ConvoId,
    pub caller: Did,
    /// Id, if no request is open.
    pub id: String,
    pub package: Option<RejoinPackage>,
    pub reason: Option<String>,
}

/// Key package with which the other members can add the caller.
#[derive(Debug)]
pub struct RejoinPackage {
    pub package: NewKeyPackage,
    /// Identity of its leaf: the caller's DID, or `did#device`.
    pub identity: String,
    pub base64: String,
    pub now: chrono::DateTime<chrono::Utc>,
}

impl Transaction for RequestReaddition {
    const NAME: &'static str = "readdition";
    type Output = Requested;

    fn affected(&self) -> Vec<&str> {
        vec![self.convo_id.as_str()]
    }

    async fn execute(&self, tx: &Tx) -> Result<Requested, Abort> {
        // Before anything is written, so that only members publish here.
        members::membership(tx, &self.convo_id, &self.caller).await?;
        let mut fields = Map::new();
        if let Some(RejoinPackage { package, identity, base64, now }) = &self.package {
            key_packages::lock_owner(tx, &self.caller).await?;
            let mut stored = store_each(tx, &self.caller, &[package], *now).await?;
            let published = stored.pop().expect("each package has an outcome")?;
            fields.insert("keyPackage".to_owned(), json!(base64));
            fields.insert("keyPackageHash".to_owned(), json!(published.hash));
            if let Some((_, device)) = identity.split_once('#') {
                fields.insert("deviceId".to_owned(), json!(device));
            }
        }
        if let Some(reason) = &self.reason {
            fields.insert("reason".to_owned(), json!(reason));
        }
        let identity = self.package.as_ref().map_or(self.caller.as_str(), |package| package.identity.as_str());
        let (convo, member, id, fields) = (&self.convo_id, &self.caller, self.id.as_str(), Value::Object(fields));
        let requested = readditions::request(tx, &NewRequest { convo, member, identity, id, fields }).await?;
        requested.ok_or_else(|| not_found().into())
    }
}
