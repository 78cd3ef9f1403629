//! Mailboxes, and the envelopes that entries are handed over in. [`crate::delivery`] decides when and how.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::views::MessageView;

use super::lanes::Lane;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Errand, Failed, Reader, Store, Tx, messages};

query! {
    SET = "mailboxes/set" (TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, BYTEA);
    BEHIND = "mailboxes/behind" ();
    TAKE_FAN_OUT = "mailboxes/take_fan_out" (INT8);
    EXPAND = "mailboxes/expand" (TEXT, TEXT, INT4, TEXT, TEXT, INT8, INT8, INT8);
    MOVE_FAN_OUT = "mailboxes/move_fan_out" (INT4, TEXT);
    PLACE_FAN_OUT = "mailboxes/place_fan_out" (TEXT, TEXT, INT4, TEXT, TEXT, TEXT);
    DUE = "mailboxes/due" ();
    CLAIM = "mailboxes/claim" (INT8, FLOAT8, TEXT_ARRAY, INT8_ARRAY, INT8, TEXT_ARRAY, INT8_ARRAY, INT8);
    POSTPONE = "mailboxes/postpone" (TEXT_ARRAY, FLOAT8_ARRAY, INT8);
    LETTER = "mailboxes/letter" (TEXT, INT8, TEXT);
    DELIVERED = "mailboxes/delivered" (TEXT);
    FAILED = "mailboxes/failed" (TEXT, INT4, FLOAT8, TEXT);
    DEAD = "mailboxes/dead" (TEXT, INT4, TEXT);
    WITHDRAW = "mailboxes/withdraw" (TEXT, INT4);
    BACKLOG = "mailboxes/backlog" (INT8);
}

/// Entries that are expanded together, beside those that one transaction wrote.
pub(crate) const ENTRIES_AT_ONCE: i64 = 200;
/// For each of them, envelopes that one transaction makes, and members that it looks at.
const ENVELOPES_EACH: i64 = 25;
const MEMBERS_EACH: i64 = 100;
/// As long as there are no more webhooks than this, they are looked for in the conversations, not the other way round.
const FEW: i64 = 100;
/// How far the backlog is counted.
const MOST_COUNTED: i64 = 100_000;

/// Where a member's entries are handed over.
#[derive(Debug, Clone)]
pub struct Webhook {
    pub url: String,
    /// Of the URL, with its port if that is not the usual one.
    pub host: String,
    /// A name of the member's own.
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

/// Gives a member a mailbox, or none, in one conversation or in all that have none of their own.
pub(crate) async fn set(tx: &Tx, did: &Did, convo: Option<&ConvoId>, mailbox: Option<&Webhook>) -> Result<(), Abort> {
    let convo = convo.map_or("", ConvoId::as_str);
    let provider = if mailbox.is_some() { "webhook" } else { "none" };
    let zone = mailbox.and_then(|mailbox| mailbox.zone.as_deref());
    let (url, host) = (mailbox.map(|mailbox| mailbox.url.as_str()), mailbox.map(|mailbox| mailbox.host.as_str()));
    let secret = mailbox.map(|mailbox| mailbox.secret.0.as_slice());
    tx.rows(&SET, &[&did.as_str(), &convo, &provider, &zone, &url, &host, &secret]).await?;
    Ok(())
}

/// An attempt to hand an envelope over. Its number tells its end from that of another.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub id: String,
    pub convo: ConvoId,
    pub recipient: String,
    pub seq: i64,
    pub host: String,
    pub number: i32,
    /// Of the entry's ciphertext.
    pub bytes: i32,
}

/// What an envelope holds and where it goes now.
pub(crate) struct Letter {
    pub message: MessageView,
    /// `None`: the recipient has no mailbox any more.
    pub mailbox: Option<Webhook>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Delivered,
    /// Due again after this.
    Failed(Duration, String),
    /// Not tried any more.
    Dead(String),
    /// Nobody wants it any more.
    Withdrawn,
}

/// What there is to expand.
pub(crate) struct FanOut {
    /// Somebody has a mailbox.
    pub used: bool,
    /// Entries wait.
    pub behind: bool,
}

/// One portion of the expansion: of so many entries, at most.
struct Expand(i64);

impl Errand for Expand {
    const NAME: &'static str = "expandEnvelopes";
    const LANE: Lane = Lane::Background;
    /// Envelopes made; `None` if another replica is at it.
    type Output = Option<i64>;

    async fn execute(&self, tx: &Tx) -> Result<Option<i64>, Abort> {
        let Self(entries) = self;
        let Some(range) = tx.find(&TAKE_FAN_OUT, &[entries]).await? else { return Ok(None) };
        let (low, high, era): (&str, &str, i32) = (range.get("low"), range.get("high"), range.get("era"));
        let (next_era, next_below): (i32, &str) = (range.get("next_era"), range.get("next_below"));
        let (convo, member): (&str, &str) = (range.get("convo"), range.get("member"));
        let (members, envelopes) = (entries * MEMBERS_EACH, entries * ENVELOPES_EACH);
        let params: Params<'_> = &[&low, &high, &era, &convo, &member, &members, &envelopes, &FEW];
        let Some(made) = tx.find(&EXPAND, params).await? else { return Ok(Some(0)) };
        match (made.get("convo_id"), made.get("member_did")) {
            (Some(convo), Some(member)) => {
                let (convo, member): (&str, &str) = (convo, member);
                tx.rows(&PLACE_FAN_OUT, &[&low, &high, &next_era, &next_below, &convo, &member]).await?;
            }
            _ => {
                tx.rows(&MOVE_FAN_OUT, &[&next_era, &next_below]).await?;
            }
        }
        Ok(Some(made.get("made")))
    }
}

/// How many envelopes may be taken.
pub(crate) struct Room {
    pub all: usize,
    /// For each of these hosts, and for any other.
    pub hosts: Vec<(String, usize)>,
    pub other_host: usize,
    /// For each of these recipients, and for any other.
    pub recipients: Vec<(String, usize)>,
    pub other_recipient: usize,
}

struct Claim {
    room: Room,
    lease: Duration,
}

struct Postpone {
    hosts: Vec<String>,
    seconds: Vec<f64>,
    most: i64,
}

impl Errand for Postpone {
    const NAME: &'static str = "postponeEnvelopes";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        tx.rows(&POSTPONE, &[&self.hosts, &self.seconds, &self.most]).await.map(drop)
    }
}

impl Errand for Claim {
    const NAME: &'static str = "claimEnvelopes";
    const LANE: Lane = Lane::Background;
    type Output = Vec<Attempt>;

    async fn execute(&self, tx: &Tx) -> Result<Vec<Attempt>, Abort> {
        let in_step = |of: &[(String, usize)]| -> (Vec<String>, Vec<i64>) {
            of.iter().map(|(name, room)| (name.clone(), *room as i64)).unzip()
        };
        let Room { all, hosts, other_host, recipients, other_recipient } = &self.room;
        let ((hosts, host_room), (recipients, recipient_room)) = (in_step(hosts), in_step(recipients));
        let (most, other_host, other_recipient) = (*all as i64, *other_host as i64, *other_recipient as i64);
        let lease = self.lease.as_secs_f64();
        let at_hosts: [&(dyn ToSql + Sync); 5] = [&most, &lease, &hosts, &host_room, &other_host];
        let for_recipients: [&(dyn ToSql + Sync); 3] = [&recipients, &recipient_room, &other_recipient];
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
    end: End,
}

impl Errand for Settle {
    const NAME: &'static str = "settleEnvelope";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let Attempt { id, number, .. } = &self.attempt;
        match &self.end {
            End::Delivered => tx.rows(&DELIVERED, &[id]).await?,
            End::Failed(wait, why) => tx.rows(&FAILED, &[id, number, &wait.as_secs_f64(), why]).await?,
            End::Dead(why) => tx.rows(&DEAD, &[id, number, why]).await?,
            End::Withdrawn => tx.rows(&WITHDRAW, &[id, number]).await?,
        };
        Ok(())
    }
}

impl Store {
    /// Makes envelopes of entries that have none yet, of so many at once, in one transaction, and says how many; `None` if another
    /// replica is at it.
    pub(crate) async fn expand(&self, entries: i64) -> Result<Option<i64>, Failed> {
        self.unit(Expand(entries)).await
    }

    /// Takes envelopes that are due, as far as there is room, each as an attempt that counts as failed after `lease`.
    pub(crate) async fn claim_envelopes(&self, room: Room, lease: Duration) -> Result<Vec<Attempt>, Error> {
        self.errand(Claim { room, lease }).await
    }

    /// Puts envelopes off that are due at these hosts, until about the end of the rest of each; at most so many.
    pub(crate) async fn postpone_envelopes(&self, resting: &[(&str, Duration)], most: i64) -> Result<(), Error> {
        let (hosts, seconds) = resting.iter().map(|(host, rest)| ((*host).to_owned(), rest.as_secs_f64())).unzip();
        self.errand(Postpone { hosts, seconds, most }).await
    }

    /// Notes how an attempt ended. Only the newest attempt can fail an envelope, but any can have delivered it.
    pub(crate) async fn settle_envelope(&self, attempt: Attempt, end: End) -> Result<(), Error> {
        self.errand(Settle { attempt, end }).await
    }
}

impl Reader {
    /// What there is to expand.
    pub(crate) async fn fan_out_state(&self) -> Result<FanOut, Error> {
        let row = self.find(&BEHIND, &[]).await.map_err(Abort::into_error)?;
        let row = row.ok_or_else(|| Error::internal("an expression has no value"))?;
        Ok(FanOut { used: row.get("used"), behind: row.get("behind") })
    }

    /// Whether an envelope's time has come.
    pub(crate) async fn envelope_is_due(&self) -> Result<bool, Error> {
        let row = self.find(&DUE, &[]).await.map_err(Abort::into_error)?;
        Ok(row.is_some_and(|row| row.get("due")))
    }

    /// How many envelopes wait and how many are dead, each counted up to [`MOST_COUNTED`].
    pub(crate) async fn backlog(&self) -> Result<(i64, i64), Error> {
        let row = self.find(&BACKLOG, &[&MOST_COUNTED]).await.map_err(Abort::into_error)?;
        Ok(row.map_or((0, 0), |row| (row.get("pending"), row.get("dead"))))
    }

    /// What an envelope holds; `None` if the entry is not kept any more.
    pub(crate) async fn letter(&self, attempt: &Attempt) -> Result<Option<Letter>, Error> {
        let Attempt { convo, seq, recipient, .. } = attempt;
        let row = self.find(&LETTER, &[&convo.as_str(), seq, recipient]).await.map_err(Abort::into_error)?;
        let Some(row) = row else { return Ok(None) };
        let mailbox = row.get::<_, Option<String>>("url").map(|url| Webhook {
            url,
            host: row.get("host"),
            zone: row.get("zone"),
            secret: Secret(row.get("secret")),
        });
        Ok(Some(Letter { message: messages::message_view(convo, &row)?, mailbox }))
    }
}

#[cfg(test)]
mod tests;
