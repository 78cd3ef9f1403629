//! Attempts to deliver envelopes.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::types::ToSql;

use super::super::lanes::Lane;
use super::super::query::query;
use super::super::session::Queries;
use super::super::{Abort, Reader, Store, Transaction, Tx, messages};
use super::{MailboxKey, Webhook, webhook};
use crate::error::Error;
use crate::ids::ConvoId;
use crate::wire::MessageView;

query! {
    CLAIM = "mailboxes/claim" (INT8, FLOAT8, TEXT_ARRAY, INT8_ARRAY, INT8, TEXT_ARRAY, INT8_ARRAY, INT8, TIMESTAMPTZ);
    POSTPONE = "mailboxes/postpone" (TEXT_ARRAY, FLOAT8_ARRAY, INT8, TIMESTAMPTZ);
    ENVELOPE_BODY = "mailboxes/envelope_body" (TEXT, INT8, TEXT);
    DELIVERED = "mailboxes/delivered" (TEXT);
    FAILED = "mailboxes/failed" (TEXT, INT4, FLOAT8, TEXT);
    EARLY = "mailboxes/early" (TEXT, INT4, FLOAT8, TEXT);
    DEAD = "mailboxes/dead" (TEXT, INT4, TEXT);
    WITHDRAW = "mailboxes/withdraw" (TEXT, INT4);
    BLAME = "mailboxes/blame" (TEXT, TEXT, TIMESTAMPTZ, INT4, INT4, FLOAT8, TEXT);
    SERVED = "mailboxes/served" (TEXT, TEXT, TIMESTAMPTZ);
}

/// A mailbox is suspended after this number of envelopes that were given up in a row, or when a second one is given up
/// and none was accepted for this time.
const MAX_GIVEN_UP: i32 = 100;
const MAX_FAILURE_TIME: Duration = Duration::from_secs(24 * 3_600);
/// An attempt to deliver an envelope. Its number distinguishes its result from those of other attempts.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub id: String,
    pub convo: ConvoId,
    pub recipient: String,
    pub seq: i64,
    pub host: String,
    pub number: i32,
    /// Size of the entry's ciphertext, also if it is a body.
    pub bytes: i32,
}

/// Content and destination of an envelope.
pub(crate) struct EnvelopeBody {
    pub message: MessageView,
    /// `None`: the recipient has no mailbox, or one that gets no deliveries.
    pub mailbox: Option<MailboxState>,
}

/// State of a mailbox at the time of an attempt.
pub(crate) struct MailboxState {
    pub webhook: Webhook,
    pub key: MailboxKey,
    /// True if it has answered its challenge.
    pub verified: bool,
    /// Number of challenges since it was set.
    pub challenges: i32,
    /// True if the last attempts failed.
    pub fails: bool,
}

/// Result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AttemptEnd {
    Delivered,
    /// Failed, and due again after this time.
    Failed(Duration, String),
    /// The mailbox is not verified yet, or the blob store does not answer. Due again after this time; it does not count as an attempt.
    Early(Duration, String),
    /// Dead: it is not retried.
    Dead(String),
    /// Dead because the URL is not allowed. The mailbox is suspended.
    Misplaced(String),
    /// The recipient no longer wants it.
    Withdrawn,
}

/// Limits on the number of claimed envelopes.
pub(crate) struct ClaimLimits {
    pub all: usize,
    /// Limit for each of these hosts, and for any other.
    pub hosts: Vec<(String, usize)>,
    pub other_host: usize,
    /// Limit for each of these recipients, and for any other.
    pub recipients: Vec<(String, usize)>,
    pub other_recipient: usize,
}

struct Claim {
    room: ClaimLimits,
    lease: Duration,
    since: DateTime<Utc>,
}

struct Postpone {
    hosts: Vec<String>,
    seconds: Vec<f64>,
    most: i64,
    since: DateTime<Utc>,
}

impl Transaction for Postpone {
    const NAME: &'static str = "postponeEnvelopes";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&POSTPONE, &[&self.hosts, &self.seconds, &self.most, &self.since]).await.map(drop)
    }
}

impl Transaction for Claim {
    const NAME: &'static str = "claimEnvelopes";
    const LANE: Lane = Lane::Background;
    type Output = Vec<Attempt>;

    async fn execute(&self, tx: &Tx) -> Result<Vec<Attempt>, Abort> {
        let in_step = |of: &[(String, usize)]| -> (Vec<String>, Vec<i64>) {
            of.iter().map(|(name, room)| (name.clone(), *room as i64)).unzip()
        };
        let ClaimLimits { all, hosts, other_host, recipients, other_recipient } = &self.room;
        let ((hosts, host_room), (recipients, recipient_room)) = (in_step(hosts), in_step(recipients));
        let (most, other_host, other_recipient) = (*all as i64, *other_host as i64, *other_recipient as i64);
        let lease = self.lease.as_secs_f64();
        let at_hosts: [&(dyn ToSql + Sync); 5] = [&most, &lease, &hosts, &host_room, &other_host];
        let for_recipients: [&(dyn ToSql + Sync); 4] = [&recipients, &recipient_room, &other_recipient, &self.since];
        let rows = tx.rows(&CLAIM, &[&at_hosts[..], &for_recipients].concat()).await?;
        let attempt = |row: &tokio_postgres::Row| {
            Ok(Attempt {
                id: row.get("id"),
                convo: row.get::<_, &str>("convo_id").parse().map_err(Error::internal)?,
                recipient: row.get("recipient_did"),
                seq: row.get("seq"),
                host: row.get("host"),
                number: row.get("attempts"),
                bytes: row.get("bytes"),
            })
        };
        rows.iter().map(attempt).collect()
    }
}

struct Settle {
    attempt: Attempt,
    end: AttemptEnd,
    /// Mailbox that the result concerns, and whether its last attempts failed.
    mailbox: Option<(MailboxKey, bool)>,
}

impl Transaction for Settle {
    const NAME: &'static str = "settleEnvelope";
    const LANE: Lane = Lane::Background;
    /// True if the mailbox was suspended for it.
    type Output = bool;

    async fn execute(&self, tx: &Tx) -> Result<bool, Abort> {
        let Attempt { id, number, .. } = &self.attempt;
        match &self.end {
            AttemptEnd::Delivered => tx.rows(&DELIVERED, &[id]).await?,
            AttemptEnd::Failed(wait, why) => tx.rows(&FAILED, &[id, number, &wait.as_secs_f64(), why]).await?,
            AttemptEnd::Early(wait, why) => tx.rows(&EARLY, &[id, number, &wait.as_secs_f64(), why]).await?,
            AttemptEnd::Dead(why) | AttemptEnd::Misplaced(why) => tx.rows(&DEAD, &[id, number, why]).await?,
            AttemptEnd::Withdrawn => tx.rows(&WITHDRAW, &[id, number]).await?,
        };
        let Some((MailboxKey { member, convo, set_at }, fails)) = &self.mailbox else { return Ok(false) };
        let (given_up, most, why) = match &self.end {
            AttemptEnd::Delivered if *fails => {
                tx.rows(&SERVED, &[member, convo, set_at]).await?;
                return Ok(false);
            }
            AttemptEnd::Delivered | AttemptEnd::Withdrawn | AttemptEnd::Early(..) => return Ok(false),
            AttemptEnd::Failed(_, why) => (0, MAX_GIVEN_UP, why),
            AttemptEnd::Dead(why) => (1, MAX_GIVEN_UP, why),
            AttemptEnd::Misplaced(why) => (1, 1, why),
        };
        let longest = MAX_FAILURE_TIME.as_secs_f64();
        let blamed = tx.find(&BLAME, &[member, convo, set_at, &given_up, &most, &longest, why]).await?;
        Ok(blamed.is_some())
    }
}

impl Store {
    /// Claims due envelopes within the limits, each as an attempt that counts as failed after `lease`. No envelope is
    /// due before `since`.
    pub(crate) async fn claim_envelopes(
        &self,
        room: ClaimLimits,
        lease: Duration,
        since: DateTime<Utc>,
    ) -> Result<Vec<Attempt>, Error> {
        self.transact(Claim { room, lease, since }).await
    }

    /// Postpones envelopes that are due at resting hosts until about the end of the rest; at most `most`.
    pub(crate) async fn postpone_envelopes(
        &self,
        resting: &[(&str, Duration)],
        most: i64,
        since: DateTime<Utc>,
    ) -> Result<(), Error> {
        let (hosts, seconds) = resting.iter().map(|(host, rest)| ((*host).to_owned(), rest.as_secs_f64())).unzip();
        self.transact(Postpone { hosts, seconds, most, since }).await
    }

    /// Stores the result of an attempt, and the mailbox that it concerns. Only the newest attempt can fail an envelope,
    /// but any attempt can have delivered it. Returns whether the mailbox was suspended.
    pub(crate) async fn settle_envelope(
        &self,
        attempt: Attempt,
        end: AttemptEnd,
        mailbox: Option<(MailboxKey, bool)>,
    ) -> Result<bool, Error> {
        self.transact(Settle { attempt, end, mailbox }).await
    }
}

impl Reader {
    /// Returns the content of an envelope; `None` if the entry is no longer stored.
    pub(crate) async fn envelope_body(&self, attempt: &Attempt) -> Result<Option<EnvelopeBody>, Error> {
        let Attempt { convo, seq, recipient, .. } = attempt;
        let row = self.find(&ENVELOPE_BODY, &[&convo.as_str(), seq, recipient]).await?;
        let Some(row) = row else { return Ok(None) };
        let state: Option<&str> = row.get("mailbox_state");
        let is_there = row.get::<_, Option<&str>>("url").is_some() && matches!(state, Some("unverified" | "verified"));
        let mailbox = is_there.then(|| MailboxState {
            webhook: webhook(&row),
            key: MailboxKey {
                member: row.get("mailbox_member"),
                convo: row.get("mailbox_convo"),
                set_at: row.get("mailbox_set_at"),
            },
            verified: state == Some("verified"),
            challenges: row.get("mailbox_challenges"),
            fails: row.get("mailbox_fails"),
        });
        Ok(Some(EnvelopeBody { message: messages::message_view(convo, &row)?, mailbox }))
    }
}
