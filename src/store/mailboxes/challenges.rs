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

/// Challenges in a day for one member whatever it names, and, where none has been answered, for one member to one URL, and to one URL
/// whoever names it. The last is larger than that before it, so that it takes several strangers to keep a URL from its owner.
const CHALLENGES_PER_MEMBER: i32 = 50;
const CHALLENGES_PER_MEMBER_AND_URL: i32 = 5;
const CHALLENGES_PER_URL: i32 = 25;
/// A challenge to send.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub key: MailboxKey,
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
            key: MailboxKey { member: member.to_owned(), convo: row.get("convo_id"), set_at: row.get("updated_at") },
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
    /// Takes a mailbox that is to be challenged, at none of the hosts that are `full`. It counts as failed after `lease`.
    pub(crate) async fn claim_challenge(&self, full: Vec<String>, lease: Duration) -> Result<Option<Challenge>, Error> {
        self.transact(ClaimChallenge { full, lease }).await
    }

    /// Notes how a challenge ended, unless the mailbox was set anew meanwhile.
    pub(crate) async fn settle_challenge(&self, challenge: Challenge, proof: Proof) -> Result<(), Error> {
        self.transact(SettleChallenge { challenge, proof }).await
    }
}
