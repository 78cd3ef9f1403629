//! Challenges, which a new mailbox answers before anything is delivered to it.

use std::time::Duration;

use sha2::{Digest, Sha256};

use super::super::lanes::Lane;
use super::super::query::query;
use super::super::session::Queries;
use super::super::{Abort, Store, Transaction, Tx};
use super::{MailboxKey, Webhook, webhook};
use crate::error::Error;
use crate::hex;

query! {
    CLAIM_CHALLENGE = "mailboxes/claim_challenge" (FLOAT8, TEXT_ARRAY);
    CHARGE_CHALLENGE = "mailboxes/charge_challenge" (TEXT, INT4);
    VERIFIED = "mailboxes/verified" (TEXT, TEXT, TIMESTAMPTZ);
    PUT_OFF_CHALLENGE = "mailboxes/put_off_challenge" (TEXT, TEXT, TIMESTAMPTZ, INT4, FLOAT8);
    REFUSE = "mailboxes/refuse" (TEXT, TEXT, TIMESTAMPTZ, TEXT);
}

/// Maximum number of challenges per day: of one member over all URLs; and, where none has been answered, of one member
/// to one URL, and of all members to one URL. The last is larger than the second, so that it takes several strangers to
/// block a URL for its owner.
const MAX_CHALLENGES_PER_MEMBER: i32 = 50;
const MAX_CHALLENGES_PER_MEMBER_AND_URL: i32 = 5;
const MAX_CHALLENGES_PER_URL: i32 = 25;
/// A challenge to send.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub key: MailboxKey,
    pub mailbox: Webhook,
    /// Number of challenges since the mailbox was set, this one included.
    pub number: i32,
    /// Token that the mailbox must return.
    pub token: String,
    /// True if another mailbox of the member has verified the same URL and secret, so that no challenge is needed.
    pub proved: bool,
    /// Reason why it is not sent and the mailbox is refused.
    pub futile: Option<&'static str>,
}

impl Challenge {
    pub fn recipient(&self) -> &str {
        &self.key.member
    }

    /// Conversation of the mailbox, if it belongs to one.
    pub fn convo(&self) -> Option<&str> {
        Some(self.key.convo.as_str()).filter(|convo| !convo.is_empty())
    }
}

/// Result of a challenge.
#[derive(Debug)]
pub(crate) enum Proof {
    Given,
    /// The next challenge is due after this time.
    Failed(Duration),
    /// No further challenge is sent.
    Refused(String),
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
        // The counters are locked in this order everywhere, so that two claims cannot deadlock.
        let futile = if proved {
            None
        } else if row.get("late") {
            Some("no challenge could be sent for a day")
        } else if !charge(tx, &member_key, MAX_CHALLENGES_PER_MEMBER).await? {
            Some("you have set too many mailboxes that needed a challenge; set it again tomorrow")
        } else if !charge(tx, &format!("{member_key} {url_key}"), MAX_CHALLENGES_PER_MEMBER_AND_URL).await?
            || !charge(tx, &url_key, MAX_CHALLENGES_PER_URL).await?
        {
            Some("the URL was challenged too often without an answer; set it again tomorrow")
        } else {
            None
        };
        Ok(Some(Challenge {
            mailbox: webhook(&row),
            key: MailboxKey { member: member.to_owned(), convo: row.get("convo_id"), set_at: row.get("updated_at") },
            number: row.get("challenges"),
            token: row.get("token"),
            proved,
            futile,
        }))
    }
}

/// Counts a challenge; false if the daily maximum is reached.
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
        let Challenge { key: MailboxKey { member, convo, set_at }, number, .. } = &self.challenge;
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

impl Store {
    /// Claims a mailbox with a due challenge, at none of the hosts that are `full`. The challenge counts as failed
    /// after `lease`.
    pub(crate) async fn claim_challenge(&self, full: Vec<String>, lease: Duration) -> Result<Option<Challenge>, Error> {
        self.transact(ClaimChallenge { full, lease }).await
    }

    /// Stores the result of a challenge, unless the mailbox was set again meanwhile.
    pub(crate) async fn settle_challenge(&self, challenge: Challenge, proof: Proof) -> Result<(), Error> {
        self.transact(SettleChallenge { challenge, proof }).await
    }
}
