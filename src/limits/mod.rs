//! How often somebody may ask, and how often a conversation may be written: more than that is 429 with the time to wait.
//!
//! - Per DID, all requests of one caller, whatever comes of them. The pipeline of every XRPC route asks here when it knows the
//!   caller and before it reads the body or spends the token. Only who repeats a used token is not charged: that need not be its owner.
//!   What a request turns out to cost beyond that is charged to the same bucket when it is known ([`cost`]).
//! - Per DID, requests that are worked on at once, and large bodies that come at once ([`turns`]). Further ones wait in line.
//! - Per conversation, the writes of all members together that were accepted. The serializer asks here before a write and charges
//!   after it, so that strangers, who are never accepted, use nothing up.
//! - Per DID and conversation, typing indicators, which cost everybody in it an event.
//! - Per DID and conversation, commits that were accepted, by whatever method: each makes what the others have under way stale, so one
//!   member alone must not advance the epoch without end.
//! - Per DID and conversation, writes of a former member. Each takes the conversation's lock to be told off, because it may be
//!   the repetition of one that was accepted.
//!
//! Every decision is made at once, in memory ([`buckets`]), and never waits. Where there is Redis, replicas tell each other
//! what they let through of requests, writes and commits ([`shared`]); without it, and for the others, each keeps the limits for itself.

mod buckets;
mod cost;
mod shared;
mod turns;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::config::Rates;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::metrics::Metrics;
use crate::redis::Redis;

use buckets::{Buckets, PaidOff};
use shared::Sharing;
use turns::{Turn, Turns};

pub use buckets::{BURST, Key, MOST_AHEAD, MOST_AHEAD_BY_COST, MOST_BUCKETS};
pub use cost::Work;
pub use turns::{LONGEST_WAIT, MOST_WAITING, at_once};

/// What Redis is asked for here, as the log says when it does not answer.
const PURPOSE: &str = "sharing rate limits between replicas";

/// What a limit is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One caller.
    Did,
    /// One caller's requests that are worked on at once.
    Turns,
    /// One conversation.
    Convo,
    /// One caller who types in one conversation.
    Typing,
    /// One member who commits in one conversation.
    Commits,
    /// One former member who writes to one conversation.
    Former,
}

impl Scope {
    /// As metrics and keys in Redis have it.
    pub fn label(self) -> &'static str {
        match self {
            Scope::Did => "did",
            Scope::Turns => "turns",
            Scope::Convo => "convo",
            Scope::Typing => "typing",
            Scope::Commits => "commits",
            Scope::Former => "former",
        }
    }
}

/// Typing indicators of one caller in one conversation per second. Clients send one every few seconds.
const TYPING_RATE: u32 = 2;
/// Writes of a former member to one conversation in [`FORMER_PERIOD`].
const FORMER_RATE: u32 = 60;
const FORMER_PERIOD: Duration = Duration::from_secs(60);
/// What commits are counted in.
const COMMIT_PERIOD: Duration = Duration::from_secs(60);

/// The limits of a server. Cheap to clone.
#[derive(Clone)]
pub struct RateLimits(Arc<Inner>);

struct Inner {
    rates: Rates,
    buckets: Arc<AllBuckets>,
    turns: Turns,
    /// Those of large bodies.
    uploads: Turns,
    sharing: Option<Sharing>,
    metrics: Metrics,
}

/// The buckets of all limits.
struct AllBuckets {
    callers: Buckets,
    convos: Buckets,
    typing: Buckets,
    commits: Buckets,
    former: Buckets,
}

impl AllBuckets {
    fn of(&self, scope: Scope) -> &Buckets {
        match scope {
            Scope::Did | Scope::Turns => &self.callers,
            Scope::Convo => &self.convos,
            Scope::Typing => &self.typing,
            Scope::Commits => &self.commits,
            Scope::Former => &self.former,
        }
    }
}

/// A request that was charged to its caller. The other replicas hear of it when this ends, however it ends.
pub struct Admission {
    limits: RateLimits,
    /// Whose bucket, and until when the charge is not paid off. `None`: there is nothing to tell.
    charge: Option<(Key, PaidOff)>,
    /// How many bytes came with it, and how many of them are charged.
    received: usize,
    charged: usize,
    /// Over when what came is charged.
    upload: Option<Turn>,
}

impl Admission {
    /// Waits for one of the caller's turns to send a large body, as [`RateLimits::open`] does for its turns.
    pub async fn upload(&mut self) -> Result<(), Error> {
        if let Some((key, _)) = self.charge {
            self.upload = Some(self.limits.turn(&self.limits.0.uploads, key).await?);
        }
        Ok(())
    }

    /// So many bytes have come with it so far. They are charged when this ends, however much is still to come; those of a large body
    /// as they come.
    pub fn received(&mut self, bytes: usize) {
        self.received = bytes;
        if self.upload.is_some() && bytes - self.charged >= cost::BYTES_UNIT {
            self.charge_received();
        }
    }

    /// Waits, with a large body, until half of a burst is left: one comes no faster than its sender's rate, and leaves the sender
    /// something for other requests.
    pub async fn pace(&self) {
        if let (Some((key, _)), Some(_)) = (self.charge, &self.upload) {
            self.limits.spare(key).await;
        }
    }

    fn charge_received(&mut self) {
        if let Some((key, _)) = self.charge {
            let units = Work::Bytes(self.received).units() - Work::Bytes(self.charged).units();
            self.limits.charge_units(key, Work::Bytes(self.received), units);
            self.charged = self.received;
        }
    }

    /// Gives back what was charged: somebody else sent the request, by a token that its owner has used before.
    pub fn forgive(&mut self) {
        if let Some((key, paid_off)) = self.charge.take() {
            self.limits.0.buckets.callers.refund(key, paid_off, Instant::now());
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((key, _)) = self.charge {
            let unit = self.limits.0.buckets.callers.interval();
            self.limits.tell(Scope::Did, key, unit);
            self.charge_received();
        }
    }
}

/// A caller's account while a request of it is worked on: what is charged to it, and its place among those that are worked on at once.
pub struct Account {
    limits: RateLimits,
    /// Whose bucket; `None` where nothing is charged.
    key: Option<Key>,
    _turn: Option<Turn>,
}

impl Account {
    /// Charges what the request turned out to cost.
    pub fn charge(&self, work: Work) {
        if let Some(key) = self.key {
            self.limits.charge(key, work);
        }
    }

    /// Waits until half of a burst is left, so that what is done for the caller by itself takes no more than its rate, and leaves it
    /// something.
    pub async fn spare(&self) {
        if let Some(key) = self.key {
            self.limits.spare(key).await;
        }
    }
}

/// The bucket of a member's commits in one conversation.
#[derive(Clone, Copy)]
pub struct CommitBucket(Key);

/// A conversation's bucket.
#[derive(Clone, Copy)]
pub struct ConvoBucket(Key);

impl RateLimits {
    /// Makes the limits, shared through Redis if there is one, by a task on `runtime`.
    pub fn new(rates: Rates, redis: Option<&Redis>, metrics: Metrics, runtime: &Handle) -> Self {
        let buckets = Arc::new(AllBuckets {
            callers: Buckets::by_cost(rates.per_did),
            convos: Buckets::new(rates.per_convo),
            typing: Buckets::new(TYPING_RATE),
            commits: Buckets::per(rates.commits, COMMIT_PERIOD),
            former: Buckets::per(FORMER_RATE, FORMER_PERIOD),
        });
        let sharing =
            redis.map(|redis| Sharing::start(redis.also_for(PURPOSE), buckets.clone(), metrics.clone(), runtime));
        Self(Arc::new(Inner {
            rates,
            buckets,
            turns: Turns::new(at_once()),
            uploads: Turns::new(at_once()),
            sharing,
            metrics,
        }))
    }

    /// Charges a request to its caller, or refuses it with `RateLimitExceeded` and charges nothing.
    pub fn admit(&self, caller: &Did) -> Result<Admission, Error> {
        if self.0.rates.per_did == 0 {
            return Ok(self.admission(None));
        }
        let key = Key::of(caller.as_str());
        match self.0.buckets.callers.take(key, Instant::now()) {
            Ok(paid_off) => Ok(self.admission(Some((key, paid_off)))),
            Err(wait) => Err(self.refusal(Scope::Did, wait)),
        }
    }

    fn admission(&self, charge: Option<(Key, PaidOff)>) -> Admission {
        Admission { limits: self.clone(), charge, received: 0, charged: 0, upload: None }
    }

    /// Opens the account of a caller for a request that was admitted. One that needs a turn waits for it, for [`LONGEST_WAIT`] at most;
    /// it is refused with `RateLimitExceeded` if the caller has used up more meanwhile than there was room for, and if too many of
    /// its requests wait.
    pub async fn open(&self, caller: &Did, needs_turn: bool) -> Result<Account, Error> {
        let mut account = self.account(caller);
        if let Some(key) = account.key.filter(|_| needs_turn) {
            account._turn = Some(self.turn(&self.0.turns, key).await?);
        }
        Ok(account)
    }

    async fn turn(&self, turns: &Turns, key: Key) -> Result<Turn, Error> {
        let Some(turn) = turns.take(key).await else {
            return Err(self.refusal(Scope::Turns, turns::TOLD_WAIT));
        };
        match self.0.buckets.callers.debt(key, Instant::now()) {
            Some(wait) => Err(self.refusal(Scope::Did, wait)),
            None => Ok(turn),
        }
    }

    /// See [`Account::spare`].
    async fn spare(&self, key: Key) {
        while let Some(wait) = self.0.buckets.callers.beyond_half(key, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// The account of a caller for what goes on after its request was answered.
    pub fn account(&self, caller: &Did) -> Account {
        let key = (self.0.rates.per_did > 0).then(|| Key::of(caller.as_str()));
        Account { limits: self.clone(), key, _turn: None }
    }

    /// Charges a caller for what a request took, as far as it is more than what every request may take.
    fn charge(&self, key: Key, work: Work) {
        self.charge_units(key, work, work.units());
    }

    /// Charges so many units for a part of that work.
    fn charge_units(&self, key: Key, work: Work, units: f64) {
        if units > 0.0 {
            let cost = self.0.buckets.callers.interval().mul_f64(units);
            self.0.buckets.callers.charge(key, cost, Instant::now());
            self.tell(Scope::Did, key, cost);
            self.0.metrics.charged(work, units);
        }
    }

    /// Charges a typing indicator to its sender, or refuses it. Every replica keeps this limit alone.
    pub fn admit_typing(&self, caller: &Did, convo: &ConvoId) -> Result<(), Error> {
        let key = Key::of(&format!("{caller} {convo}"));
        self.0.buckets.typing.take(key, Instant::now()).map(drop).map_err(|wait| self.refusal(Scope::Typing, wait))
    }

    /// The bucket of a member's commits in a conversation.
    pub fn commits(&self, caller: &Did, convo: &ConvoId) -> CommitBucket {
        CommitBucket(Key::of(&format!("{caller} {convo}")))
    }

    /// How long the member has to wait before its next commit there; `None` if it need not.
    pub fn commit_wait(&self, bucket: CommitBucket) -> Option<Duration> {
        if self.0.rates.commits == 0 { None } else { self.0.buckets.commits.wait(bucket.0, Instant::now()) }
    }

    /// Charges a commit that was accepted, now or by the same request earlier.
    pub fn committed(&self, bucket: CommitBucket) {
        if self.0.rates.commits > 0 {
            let unit = self.0.buckets.commits.interval();
            self.0.buckets.commits.charge(bucket.0, unit, Instant::now());
            self.tell(Scope::Commits, bucket.0, unit);
        }
    }

    /// What a member is told who has used up its commits.
    pub fn refuse_commit(&self, wait: Duration) -> Error {
        self.refusal(Scope::Commits, wait)
    }

    /// How long somebody has to wait who, if it is a former member, has been told so too often; `None` if it need not. Every replica
    /// keeps this limit alone.
    pub fn former_wait(&self, caller: &Did, convo: &ConvoId) -> Option<Duration> {
        self.0.buckets.former.wait(Key::of(&format!("{caller} {convo}")), Instant::now())
    }

    /// Charges a write that was refused because somebody is not a member any more.
    pub fn told_former(&self, caller: &Did, convo: &ConvoId) {
        let former = &self.0.buckets.former;
        former.charge(Key::of(&format!("{caller} {convo}")), former.interval(), Instant::now());
    }

    /// What a former member is told who goes on writing.
    pub fn refuse_former(&self, wait: Duration) -> Error {
        self.refusal(Scope::Former, wait)
    }

    /// The bucket of a conversation's writes.
    pub fn convo(&self, convo: &ConvoId) -> ConvoBucket {
        ConvoBucket(Key::of(convo.as_str()))
    }

    /// How long the conversation is over its limit; `None` if it is not. Tells whether it exists, so it is for members only.
    pub fn wait(&self, convo: ConvoBucket) -> Option<Duration> {
        if self.0.rates.per_convo == 0 { None } else { self.0.buckets.convos.wait(convo.0, Instant::now()) }
    }

    /// Charges a write that was accepted, now or by the same request earlier. Callers that hang up before they are answered have
    /// only their own limit to answer to: by then it is not known here whether they are members.
    pub fn written(&self, convo: ConvoBucket) {
        if self.0.rates.per_convo > 0 {
            let unit = self.0.buckets.convos.interval();
            self.0.buckets.convos.charge(convo.0, unit, Instant::now());
            self.tell(Scope::Convo, convo.0, unit);
        }
    }

    /// What a member is told while its conversation is over its limit.
    pub fn refuse_write(&self, wait: Duration) -> Error {
        self.refusal(Scope::Convo, wait)
    }

    fn tell(&self, scope: Scope, key: Key, cost: Duration) {
        if let Some(sharing) = &self.0.sharing {
            sharing.tell(scope, key, cost);
        }
    }

    fn refusal(&self, scope: Scope, wait: Duration) -> Error {
        self.0.metrics.rate_limited(scope);
        let mut error = Code::RateLimitExceeded.because(match scope {
            Scope::Did => {
                format!(
                    "more than {} requests per second come from you, dear ones counted as several",
                    self.0.rates.per_did
                )
            }
            Scope::Turns => {
                format!("{} of your requests are worked on and others have waited too long, or are too many", at_once())
            }
            Scope::Typing => format!("more than {TYPING_RATE} typing indicators per second come from you here"),
            Scope::Commits => {
                format!(
                    "more than {} commits per minute come from you in this conversation; nothing was changed",
                    self.0.rates.commits
                )
            }
            Scope::Former => "you are no longer a member of this conversation, and go on writing to it".to_owned(),
            Scope::Convo => {
                format!(
                    "more than {} writes per second go to this conversation; nothing was changed",
                    self.0.rates.per_convo
                )
            }
        });
        let ms = wait.as_nanos().div_ceil(1_000_000);
        error.details.retry_after_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        error
    }
}
