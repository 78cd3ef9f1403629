//! Requests of members to be added to the MLS group again.

use serde_json::Value;

use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Cause, Reader, Tx};
use crate::error::Error;
use crate::ids::{ConvoId, Did};

query! {
    REQUEST = "readditions/request" (TEXT, TEXT, TEXT, TEXT, FLOAT8, TEXT);
    OPEN = "readditions/open" (TEXT, INT8);
}

/// Time in which a member's repeated requests are one event, in seconds.
pub const READDITION_INTERVAL_SECONDS: f64 = 10.0;

/// A member's request.
pub struct NewRequest<'a> {
    pub convo: &'a ConvoId,
    pub member: &'a Did,
    /// The member's DID, or `did#device`.
    pub identity: &'a str,
    /// Id, if no request of this membership is open.
    pub id: &'a str,
    /// Further fields of the event.
    pub fields: Value,
}

/// Outcome of a request.
#[derive(Debug, Clone)]
pub struct Requested {
    pub id: String,
    /// Number of other members.
    pub others: i64,
}

/// Tells the other members of a request, unless they were told a short time ago. `None` if the caller is not a member.
pub(crate) async fn request(tx: &Tx, new: &NewRequest<'_>) -> Result<Option<Requested>, Abort> {
    let NewRequest { convo, member, identity, id, fields } = new;
    let fields = fields.to_string();
    let params: Params<'_> = &[&convo.as_str(), &member.as_str(), identity, id, &READDITION_INTERVAL_SECONDS, &fields];
    let Some(row) = tx.find(&REQUEST, params).await? else { return Ok(None) };
    let Some(id) = row.get("request_id") else { return Err(Abort::Again(Cause::Taken)) };
    Ok(Some(Requested { id, others: row.get("others") }))
}

impl Reader {
    /// Returns conversations in which a person waits to be added to the group again.
    pub async fn open_readditions(&self, did: &Did, most: i64) -> Result<Vec<String>, Error> {
        let rows = self.rows(&OPEN, &[&did.as_str(), &most]).await?;
        Ok(rows.iter().map(|row| row.get("convo_id")).collect())
    }
}
