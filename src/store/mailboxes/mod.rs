//! Mailboxes of members, and the envelopes through which entries are delivered to them. [`crate::delivery`] decides
//! when and how.

mod attempts;
mod challenges;
mod dead;
mod expand;

#[cfg(test)]
mod tests;

pub(crate) use attempts::{Attempt, AttemptEnd, ClaimLimits};
pub(crate) use challenges::{Challenge, Proof};
pub use dead::DeadEnvelope;
pub(crate) use expand::MAX_ENTRIES;

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::ids::{ConvoId, Did};

use super::query::query;
use super::session::Queries;
use super::{Abort, Reader, Tx};

query! {
    SET = "mailboxes/set" (TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, BYTEA);
    GET = "mailboxes/get" (TEXT, TEXT);
    DUE = "mailboxes/due" (TIMESTAMPTZ, FLOAT8);
    BACKLOG = "mailboxes/backlog" (INT8);
}

/// Maximum time of a transaction that makes envelopes, its COMMIT included.
pub(crate) const MAX_EXPAND_TIME: Duration = Duration::from_secs(15);
/// Number up to which the backlog is counted.
const MAX_COUNTED: i64 = 100_000;

/// Webhook to which a member's entries are delivered.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub url: String,
    /// Host of the URL, with the port unless it is the default.
    pub host: String,
    /// Name that the member has chosen.
    pub zone: Option<String>,
    /// Key of the signature.
    pub secret: Secret,
}

/// Key of a signature, never shown.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Sets or removes the mailbox of a member, in one conversation or in all that have none of their own.
pub(crate) async fn set(tx: &Tx, did: &Did, convo: Option<&ConvoId>, mailbox: Option<&Webhook>) -> Result<(), Abort> {
    let convo = convo.map_or("", ConvoId::as_str);
    let provider = if mailbox.is_some() { "webhook" } else { "none" };
    let zone = mailbox.and_then(|mailbox| mailbox.zone.as_deref());
    let (url, host) = (mailbox.map(|mailbox| mailbox.url.as_str()), mailbox.map(|mailbox| mailbox.host.as_str()));
    let secret = mailbox.map(|mailbox| mailbox.secret.0.as_slice());
    tx.rows(&SET, &[&did.as_str(), &convo, &provider, &zone, &url, &host, &secret]).await?;
    Ok(())
}

/// Key of a mailbox as it was set at one time.
#[derive(Debug, Clone)]
pub(crate) struct MailboxKey {
    member: String,
    /// Empty for the mailbox of all conversations that have none of their own.
    convo: String,
    set_at: DateTime<Utc>,
}

/// A mailbox as its owner sees it.
pub struct MailboxView {
    /// Conversation of the mailbox, if it belongs to one.
    pub convo: Option<String>,
    pub zone: Option<String>,
    /// `None`: the member wants no mailbox here.
    pub url: Option<String>,
    pub state: String,
    /// Reason why it is refused or suspended.
    pub reason: Option<String>,
    pub set_at: DateTime<Utc>,
}

/// Kinds of work that are due.
pub(crate) struct Due {
    pub envelopes: bool,
    pub challenges: bool,
    /// No envelope is due before this time of PostgreSQL's clock.
    pub since: DateTime<Utc>,
}

/// Returns the webhook of a row that has one.
fn webhook(row: &tokio_postgres::Row) -> Webhook {
    Webhook { url: row.get("url"), host: row.get("host"), zone: row.get("zone"), secret: Secret(row.get("secret")) }
}

impl Reader {
    /// Returns the mailbox of a member in a conversation, or the one for conversations without their own.
    pub async fn mailbox(&self, did: &Did, convo: Option<&ConvoId>) -> Result<Option<MailboxView>, Error> {
        let convo = convo.map_or("", ConvoId::as_str);
        let row = self.find(&GET, &[&did.as_str(), &convo]).await?;
        Ok(row.map(|row| MailboxView {
            convo: Some(row.get::<_, String>("convo_id")).filter(|convo| !convo.is_empty()),
            zone: row.get("zone"),
            url: row.get("url"),
            state: row.get("state"),
            reason: row.get("reason"),
            set_at: row.get("updated_at"),
        }))
    }

    /// Returns what is due, among the envelopes due from `since` on ([`Due`]), or among all.
    pub(crate) async fn mailboxes_due(&self, since: Option<DateTime<Utc>>) -> Result<Due, Error> {
        let row = self.find(&DUE, &[&since, &MAX_EXPAND_TIME.as_secs_f64()]).await?;
        let row = row.ok_or_else(|| Error::internal("an expression has no value"))?;
        Ok(Due { envelopes: row.get("envelopes"), challenges: row.get("challenges"), since: row.get("since") })
    }

    /// Returns the numbers of waiting and of dead envelopes, each counted up to [`MAX_COUNTED`].
    pub(crate) async fn backlog(&self) -> Result<(i64, i64), Error> {
        let row = self.find(&BACKLOG, &[&MAX_COUNTED]).await?;
        Ok(row.map_or((0, 0), |row| (row.get("pending"), row.get("dead"))))
    }
}
