//! Mailboxes, and the envelopes that entries are handed over in. [`crate::delivery`] decides when and how.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::hex;
use crate::ids::{ConvoId, Did};
use crate::wire::MessageView;

use super::lanes::Lane;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Failed, Reader, Store, Transaction, Tx, messages};

query! {
    SET = "mailboxes/set" (TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, BYTEA);
    BEHIND = "mailboxes/behind" ();
    TAKE_FAN_OUT = "mailboxes/take_fan_out" (INT8);
    EXPAND = "mailboxes/expand" (TEXT, TEXT, INT4, TEXT, TEXT, INT8, INT8, INT8);
    MOVE_FAN_OUT = "mailboxes/move_fan_out" (INT4, TEXT);
    PLACE_FAN_OUT = "mailboxes/place_fan_out" (TEXT, TEXT, INT4, TEXT, TEXT, TEXT);
    DUE = "mailboxes/due" (TIMESTAMPTZ, FLOAT8);
    CLAIM = "mailboxes/claim" (INT8, FLOAT8, TEXT_ARRAY, INT8_ARRAY, INT8, TEXT_ARRAY, INT8_ARRAY, INT8, TIMESTAMPTZ);
    POSTPONE = "mailboxes/postpone" (TEXT_ARRAY, FLOAT8_ARRAY, INT8, TIMESTAMPTZ);
    ENVELOPE_BODY = "mailboxes/envelope_body" (TEXT, INT8, TEXT);
    DELIVERED = "mailboxes/delivered" (TEXT);
    FAILED = "mailboxes/failed" (TEXT, INT4, FLOAT8, TEXT);
    EARLY = "mailboxes/early" (TEXT, INT4, FLOAT8, TEXT);
    DEAD = "mailboxes/dead" (TEXT, INT4, TEXT);
    WITHDRAW = "mailboxes/withdraw" (TEXT, INT4);
    BACKLOG = "mailboxes/backlog" (INT8);
    GET = "mailboxes/get" (TEXT, TEXT);
    CLAIM_CHALLENGE = "mailboxes/claim_challenge" (FLOAT8, TEXT_ARRAY);
    CHARGE_CHALLENGE = "mailboxes/charge_challenge" (TEXT, INT4);
    VERIFIED = "mailboxes/verified" (TEXT, TEXT, TIMESTAMPTZ);
    PUT_OFF_CHALLENGE = "mailboxes/put_off_challenge" (TEXT, TEXT, TIMESTAMPTZ, INT4, FLOAT8);
    REFUSE = "mailboxes/refuse" (TEXT, TEXT, TIMESTAMPTZ, TEXT);
    BLAME = "mailboxes/blame" (TEXT, TEXT, TIMESTAMPTZ, INT4, INT4, FLOAT8, TEXT);
    SERVED = "mailboxes/served" (TEXT, TEXT, TIMESTAMPTZ);
}

/// How long a transaction that makes envelopes runs at most, the wait for its COMMIT included.
const MAX_EXPAND_TIME: Duration = Duration::from_secs(15);
/// Entries that are expanded together, beside those that one transaction wrote.
pub(crate) const ENTRIES_AT_ONCE: i64 = 200;
/// For each of them, envelopes that one transaction makes, and members that it looks at.
const ENVELOPES_EACH: i64 = 25;
const MEMBERS_EACH: i64 = 100;
/// As long as there are no more webhooks than this, they are looked for in the conversations, not the other way round.
const FEW_WEBHOOKS: i64 = 100;
/// Challenges in a day for one member whatever it names, and, where none has been answered, for one member to one URL, and to one URL
/// whoever names it. The last is larger than that before it, so that it takes several strangers to keep a URL from its owner.
const CHALLENGES_PER_MEMBER: i32 = 50;
const CHALLENGES_PER_MEMBER_AND_URL: i32 = 5;
const CHALLENGES_PER_URL: i32 = 25;
/// A mailbox is suspended after so many envelopes in a row that were given up, or when a second one is and none was taken for so long.
const MAX_GIVEN_UP: i32 = 100;
const MAX_FAILURE_TIME: Duration = Duration::from_secs(24 * 3_600);
/// How far the backlog is counted.
const MAX_COUNTED: i64 = 100_000;

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

/// Which mailbox, as it was set at this time and no other.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    member: String,
    /// Empty: for every conversation that has none of its own.
    convo: String,
    set_at: DateTime<Utc>,
}

/// What a member is told of its mailbox.
pub struct Seen {
    /// The conversation whose own it is.
    pub convo: Option<String>,
    pub zone: Option<String>,
    /// `None`: it says that there is none.
    pub url: Option<String>,
    pub state: String,
    /// Why it is refused or suspended.
    pub reason: Option<String>,
    pub set_at: DateTime<Utc>,
}

/// A challenge to send.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub key: Key,
    pub mailbox: Webhook,
    /// How many there were since the mailbox was set, this one included.
    pub number: i32,
    /// What has to come back.
    pub token: String,
    /// Another mailbox of the member has proved the same URL and secret, so nobody is asked.
    pub proved: bool,
    /// Why it is not to be sent, and the mailbox refused.
    pub futile: Option<&'static str>,
}

impl Challenge {
    pub fn recipient(&self) -> &str {
        &self.key.member
    }

    /// The conversation whose own mailbox it is.
    pub fn convo(&self) -> Option<&str> {
        Some(self.key.convo.as_str()).filter(|convo| !convo.is_empty())
    }
}

/// How a challenge ended.
#[derive(Debug)]
pub(crate) enum Proof {
    Given,
    /// The next challenge is due after this.
    Failed(Duration),
    /// There is no other.
    Refused(String),
}

/// Whose time has come.
pub(crate) struct Due {
    pub envelopes: bool,
    pub challenges: bool,
    /// No envelope is due before that, by PostgreSQL's clock.
    pub since: DateTime<Utc>,
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
pub(crate) struct EnvelopeBody {
    pub message: MessageView,
    /// `None`: the recipient has no mailbox any more, or none that is handed anything.
    pub mailbox: Option<Found>,
}

/// A mailbox as an attempt finds it.
pub(crate) struct Found {
    pub webhook: Webhook,
    pub key: Key,
    /// It has answered its challenge.
    pub verified: bool,
    /// Challenges begun since it was set.
    pub challenges: i32,
    /// The last attempts failed.
    pub fails: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    Delivered,
    /// Due again after this.
    Failed(Duration, String),
    /// The mailbox has to prove itself first; due again after this, and it was no attempt.
    Early(Duration, String),
    /// Not tried any more.
    Dead(String),
    /// The same, because the mailbox is at a place that is not called (any more); it is suspended.
    Misplaced(String),
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

impl Transaction for Expand {
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
        let params: Params<'_> = &[&low, &high, &era, &convo, &member, &members, &envelopes, &FEW_WEBHOOKS];
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
        let Room { all, hosts, other_host, recipients, other_recipient } = &self.room;
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
    end: End,
    /// The mailbox that it is to the credit of, or to blame on.
    mailbox: Option<(Key, bool)>,
}

impl Transaction for Settle {
    const NAME: &'static str = "settleEnvelope";
    const LANE: Lane = Lane::Background;
    /// Whether the mailbox was suspended for it.
    type Output = bool;

    async fn execute(&self, tx: &Tx) -> Result<bool, Abort> {
        let Attempt { id, number, .. } = &self.attempt;
        match &self.end {
            End::Delivered => tx.rows(&DELIVERED, &[id]).await?,
            End::Failed(wait, why) => tx.rows(&FAILED, &[id, number, &wait.as_secs_f64(), why]).await?,
            End::Early(wait, why) => tx.rows(&EARLY, &[id, number, &wait.as_secs_f64(), why]).await?,
            End::Dead(why) | End::Misplaced(why) => tx.rows(&DEAD, &[id, number, why]).await?,
            End::Withdrawn => tx.rows(&WITHDRAW, &[id, number]).await?,
        };
        let Some((Key { member, convo, set_at }, fails)) = &self.mailbox else { return Ok(false) };
        let (given_up, most, why) = match &self.end {
            End::Delivered if *fails => {
                tx.rows(&SERVED, &[member, convo, set_at]).await?;
                return Ok(false);
            }
            End::Delivered | End::Withdrawn | End::Early(..) => return Ok(false),
            End::Failed(_, why) => (0, MAX_GIVEN_UP, why),
            End::Dead(why) => (1, MAX_GIVEN_UP, why),
            End::Misplaced(why) => (1, 1, why),
        };
        let longest = MAX_FAILURE_TIME.as_secs_f64();
        let blamed = tx.find(&BLAME, &[member, convo, set_at, &given_up, &most, &longest, why]).await?;
        Ok(blamed.is_some())
    }
}

struct ClaimChallenge {
    full: Vec<String>,
    lease: Duration,
}

impl Transaction for ClaimChallenge {
    const NAME: &'static str = "claimChallenge";
    const LANE: Lane = Lane::Background;
    type Output = Option<Challenge>;

    async fn execute(&self, tx: &Tx) -> Result<Option<Challenge>, Abort> {
        let Some(row) = tx.find(&CLAIM_CHALLENGE, &[&self.lease.as_secs_f64(), &self.full]).await? else {
            return Ok(None);
        };
        let (member, url): (&str, &str) = (row.get("member_did"), row.get("url"));
        let (member_key, url_key) = (format!("member {member}"), format!("url {}", hex::encode(&Sha256::digest(url))));
        let proved = row.get("proved");
        // In this order everywhere, so that two who charge cannot wait for each other in a circle.
        let futile = if proved {
            None
        } else if row.get("late") {
            Some("no challenge could be sent for a day")
        } else if !charge(tx, &member_key, CHALLENGES_PER_MEMBER).await? {
            Some("you have set too many mailboxes that needed a challenge; set it again tomorrow")
        } else if !charge(tx, &format!("{member_key} {url_key}"), CHALLENGES_PER_MEMBER_AND_URL).await?
            || !charge(tx, &url_key, CHALLENGES_PER_URL).await?
        {
            Some("the URL was challenged too often without an answer; set it again tomorrow")
        } else {
            None
        };
        Ok(Some(Challenge {
            mailbox: webhook(&row),
            key: Key { member: member.to_owned(), convo: row.get("convo_id"), set_at: row.get("updated_at") },
            number: row.get("challenges"),
            token: row.get("token"),
            proved,
            futile,
        }))
    }
}

/// Counts a challenge; false if there were as many as there may be in a day.
async fn charge(tx: &Tx, whom: &str, most: i32) -> Result<bool, Abort> {
    Ok(tx.find(&CHARGE_CHALLENGE, &[&whom, &most]).await?.is_some())
}

struct SettleChallenge {
    challenge: Challenge,
    proof: Proof,
}

impl Transaction for SettleChallenge {
    const NAME: &'static str = "settleChallenge";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        let Challenge { key: Key { member, convo, set_at }, number, .. } = &self.challenge;
        match &self.proof {
            Proof::Given => tx.rows(&VERIFIED, &[member, convo, set_at]).await?,
            Proof::Failed(wait) => {
                tx.rows(&PUT_OFF_CHALLENGE, &[member, convo, set_at, number, &wait.as_secs_f64()]).await?
            }
            Proof::Refused(why) => tx.rows(&REFUSE, &[member, convo, set_at, why]).await?,
        };
        Ok(())
    }
}

/// The webhook of a row that has one.
fn webhook(row: &tokio_postgres::Row) -> Webhook {
    Webhook { url: row.get("url"), host: row.get("host"), zone: row.get("zone"), secret: Secret(row.get("secret")) }
}

impl Store {
    /// Makes envelopes of entries that have none yet, of so many at once, in one transaction, and says how many; `None` if another
    /// replica is at it.
    pub(crate) async fn expand(&self, entries: i64) -> Result<Option<i64>, Failed> {
        self.unit(Expand(entries)).await
    }

    /// Takes envelopes that are due, as far as there is room, each as an attempt that counts as failed after `lease`. None is due before
    /// `since` ([`Due`]).
    pub(crate) async fn claim_envelopes(
        &self,
        room: Room,
        lease: Duration,
        since: DateTime<Utc>,
    ) -> Result<Vec<Attempt>, Error> {
        self.transact(Claim { room, lease, since }).await
    }

    /// Puts envelopes off that are due at these hosts, until about the end of the rest of each; at most so many.
    pub(crate) async fn postpone_envelopes(
        &self,
        resting: &[(&str, Duration)],
        most: i64,
        since: DateTime<Utc>,
    ) -> Result<(), Error> {
        let (hosts, seconds) = resting.iter().map(|(host, rest)| ((*host).to_owned(), rest.as_secs_f64())).unzip();
        self.transact(Postpone { hosts, seconds, most, since }).await
    }

    /// Notes how an attempt ended, and of which mailbox that tells something (and whether its last attempts failed). Only the newest
    /// attempt can fail an envelope, but any can have delivered it. Says whether the mailbox was suspended.
    pub(crate) async fn settle_envelope(
        &self,
        attempt: Attempt,
        end: End,
        mailbox: Option<(Key, bool)>,
    ) -> Result<bool, Error> {
        self.transact(Settle { attempt, end, mailbox }).await
    }

    /// Takes a mailbox that is to be challenged, at none of the hosts that are `full`. It counts as failed after `lease`.
    pub(crate) async fn claim_challenge(&self, full: Vec<String>, lease: Duration) -> Result<Option<Challenge>, Error> {
        self.transact(ClaimChallenge { full, lease }).await
    }

    /// Notes how a challenge ended, unless the mailbox was set anew meanwhile.
    pub(crate) async fn settle_challenge(&self, challenge: Challenge, proof: Proof) -> Result<(), Error> {
        self.transact(SettleChallenge { challenge, proof }).await
    }
}

impl Reader {
    /// What there is to expand.
    pub(crate) async fn fan_out_state(&self) -> Result<FanOut, Error> {
        let row = self.find(&BEHIND, &[]).await.map_err(Abort::into_error)?;
        let row = row.ok_or_else(|| Error::internal("an expression has no value"))?;
        Ok(FanOut { used: row.get("used"), behind: row.get("behind") })
    }

    /// The mailbox that counts for somebody in a conversation, or where there is none of a conversation's own.
    pub async fn mailbox(&self, did: &Did, convo: Option<&ConvoId>) -> Result<Option<Seen>, Error> {
        let convo = convo.map_or("", ConvoId::as_str);
        let row = self.find(&GET, &[&did.as_str(), &convo]).await.map_err(Abort::into_error)?;
        Ok(row.map(|row| Seen {
            convo: Some(row.get::<_, String>("convo_id")).filter(|convo| !convo.is_empty()),
            zone: row.get("zone"),
            url: row.get("url"),
            state: row.get("state"),
            reason: row.get("reason"),
            set_at: row.get("updated_at"),
        }))
    }

    /// Whose time has come, among the envelopes that are due from `since` on ([`Due`]), or all of them.
    pub(crate) async fn mailboxes_due(&self, since: Option<DateTime<Utc>>) -> Result<Due, Error> {
        let row = self.find(&DUE, &[&since, &MAX_EXPAND_TIME.as_secs_f64()]).await.map_err(Abort::into_error)?;
        let row = row.ok_or_else(|| Error::internal("an expression has no value"))?;
        Ok(Due { envelopes: row.get("envelopes"), challenges: row.get("challenges"), since: row.get("since") })
    }

    /// How many envelopes wait and how many are dead, each counted up to [`MAX_COUNTED`].
    pub(crate) async fn backlog(&self) -> Result<(i64, i64), Error> {
        let row = self.find(&BACKLOG, &[&MAX_COUNTED]).await.map_err(Abort::into_error)?;
        Ok(row.map_or((0, 0), |row| (row.get("pending"), row.get("dead"))))
    }

    /// What an envelope holds; `None` if the entry is no longer stored.
    pub(crate) async fn envelope_body(&self, attempt: &Attempt) -> Result<Option<EnvelopeBody>, Error> {
        let Attempt { convo, seq, recipient, .. } = attempt;
        let row = self.find(&ENVELOPE_BODY, &[&convo.as_str(), seq, recipient]).await.map_err(Abort::into_error)?;
        let Some(row) = row else { return Ok(None) };
        let state: Option<&str> = row.get("mailbox_state");
        let is_there = row.get::<_, Option<&str>>("url").is_some() && matches!(state, Some("unverified" | "verified"));
        let mailbox = is_there.then(|| Found {
            webhook: webhook(&row),
            key: Key {
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

#[cfg(test)]
mod tests;
