//! Rate limits of callers and conversations. A request beyond a limit gets 429 with the time to wait.
//!
//! - Per DID: all requests, whatever their outcome. The pipeline charges a request once it knows the caller, before it
//!   reads the body or uses the token; a repeated token is not charged, because its owner may not have sent it. Extra
//!   cost is charged to the same bucket once it is known ([`cost`]).
//! - Per DID: concurrent requests and concurrent large bodies ([`slots`]). Further ones queue.
//! - Per DID, and for all: uploads and downloads in progress ([`transfers`]).
//! - Per conversation: accepted writes of all members, charged after the write, so strangers cannot use the limit up.
//! - Per DID and conversation: typing indicators, accepted commits (each one makes the other members' pending commits
//!   stale), and writes of a former member (each takes the conversation's lock, since it may repeat an accepted one).
//!
//! Every decision is made in memory ([`buckets`]) and never waits. With Redis, replicas share requests, writes and
//! commits ([`shared`]); otherwise each replica counts alone.

mod buckets;
mod cost;
mod meter;
mod metrics;
mod shared;
mod slots;
mod transfers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::background::Background;
use crate::config::Rates;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::redis::Redis;

use buckets::{Buckets, DrainedAt};
use shared::Sharing;
use slots::{Slot, Slots};
use transfers::Transfers;

pub use buckets::{BURST, Key, MAX_AHEAD, MAX_AHEAD_BY_COST, MAX_BUCKETS};
pub use cost::Work;
pub use meter::Meter;
pub use metrics::LimitMetrics;
pub use slots::{MAX_WAIT, MAX_WAITING, max_concurrent};
pub use transfers::{MAX_DOWNLOADS, MAX_DOWNLOADS_OF_ONE, MAX_UPLOADS, MAX_UPLOADS_OF_ONE, OpenTransfer, Transfer};

/// Purpose of Redis here, as the log says when Redis does not answer.
const PURPOSE: &str = "sharing rate limits between replicas";

/// Unit that a limit counts by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One caller.
    Did,
    /// One caller's concurrent requests.
    Slots,
    /// One conversation.
    Convo,
    /// One caller's typing indicators in one conversation.
    Typing,
    /// One member's commits in one conversation.
    Commits,
    /// One former member's writes to one conversation.
    Former,
}

impl Scope {
    /// All scopes.
    const ALL: [Self; 6] = [Self::Did, Self::Slots, Self::Convo, Self::Typing, Self::Commits, Self::Former];

    /// Label in metrics and in Redis keys.
    pub fn label(self) -> &'static str {
        match self {
            Scope::Did => "did",
            Scope::Slots => "turns",
            Scope::Convo => "convo",
            Scope::Typing => "typing",
            Scope::Commits => "commits",
            Scope::Former => "former",
        }
    }
}

/// Typing indicators of one caller in one conversation per second. Clients send one every few seconds.
const TYPING_RATE: u32 = 2;
/// Writes of a former member to one conversation per [`FORMER_PERIOD`].
const FORMER_RATE: u32 = 60;
const FORMER_PERIOD: Duration = Duration::from_secs(60);
/// Period in which commits are counted.
const COMMIT_PERIOD: Duration = Duration::from_secs(60);

/// Rate limits of a server. Cheap to clone.
#[derive(Clone)]
pub struct RateLimits(Arc<Inner>);

struct Inner {
    rates: Rates,
    buckets: Arc<AllBuckets>,
    slots: Slots,
    large_bodies: Slots,
    transfers: Transfers,
    sharing: Option<Sharing>,
    metrics: LimitMetrics,
}

/// Buckets of all limits.
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
            Scope::Did | Scope::Slots => &self.callers,
            Scope::Convo => &self.convos,
            Scope::Typing => &self.typing,
            Scope::Commits => &self.commits,
            Scope::Former => &self.former,
        }
    }
}

/// A request that was charged to its caller. When it is dropped, the charge is published to the other replicas.
pub struct Admission {
    limits: RateLimits,
    /// The caller's bucket, and the time at which it will have drained. `None`: nothing to publish.
    charge: Option<(Key, DrainedAt)>,
    /// Charges what arrives with it, when this is dropped; a large body or an upload while it arrives.
    meter: Meter,
    /// Slot of a large body.
    large_body: Option<Slot>,
}

impl Admission {
    /// Waits for one of the caller's slots for large bodies, as [`RateLimits::open`] does for requests.
    pub async fn large_body(&mut self) -> Result<(), Error> {
        if let Some((key, _)) = self.charge {
            self.large_body = Some(self.limits.slot(&self.limits.0.large_bodies, key).await?);
            self.meter.pace();
        }
        Ok(())
    }

    /// Paces an upload as a large body is paced.
    pub fn upload(&mut self) {
        self.meter.pace();
    }

    /// Records the bytes that have arrived so far, and waits until more may be read.
    pub async fn received(&mut self, bytes: usize) {
        self.meter.passed(bytes).await;
    }

    /// Refunds the charge: another client sent the request, with a token that its owner had used before.
    pub fn refund(&mut self) {
        self.meter.forget();
        if let Some((key, drained_at)) = self.charge.take() {
            self.limits.0.buckets.callers.refund(key, drained_at, Instant::now());
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((key, _)) = self.charge {
            let unit = self.limits.0.buckets.callers.interval();
            self.limits.publish(Scope::Did, key, unit);
        }
    }
}

/// A caller's account while its request runs: its charges and its slot among the concurrent requests.
pub struct Account {
    limits: RateLimits,
    /// The caller's bucket; `None` if nothing is charged.
    key: Option<Key>,
    _slot: Option<Slot>,
}

impl Account {
    /// Charges the extra cost of the request.
    pub fn charge(&self, work: Work) {
        if let Some(key) = self.key {
            self.limits.charge(key, work);
        }
    }

    /// Waits until half of a burst is left. Work that the server does for the caller on its own then takes no more than
    /// the caller's rate, and leaves capacity for its requests.
    pub async fn wait_for_capacity(&self) {
        if let Some(key) = self.key {
            self.limits.wait_for_capacity(key).await;
        }
    }
}

/// Bucket of a member's commits in one conversation.
#[derive(Clone, Copy)]
pub struct CommitBucket(Key);

/// Bucket of a conversation's writes.
#[derive(Clone, Copy)]
pub struct ConvoBucket(Key);

impl RateLimits {
    /// Creates the limits, shared through Redis if there is one, by a task.
    pub fn new(rates: Rates, redis: Option<&Redis>, metrics: LimitMetrics, background: &Background) -> Self {
        let buckets = Arc::new(AllBuckets {
            callers: Buckets::by_cost(rates.per_did),
            convos: Buckets::new(rates.per_convo),
            typing: Buckets::new(TYPING_RATE),
            commits: Buckets::per(rates.commits, COMMIT_PERIOD),
            former: Buckets::per(FORMER_RATE, FORMER_PERIOD),
        });
        let sharing =
            redis.map(|redis| Sharing::start(redis.also_for(PURPOSE), buckets.clone(), metrics.clone(), background));
        Self(Arc::new(Inner {
            rates,
            buckets,
            slots: Slots::new(max_concurrent()),
            large_bodies: Slots::new(max_concurrent()),
            transfers: Transfers::new(metrics.clone()),
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
            Ok(drained_at) => Ok(self.admission(Some((key, drained_at)))),
            Err(wait) => Err(self.refusal(Scope::Did, wait)),
        }
    }

    fn admission(&self, charge: Option<(Key, DrainedAt)>) -> Admission {
        let meter = Meter::new(self.clone(), charge.map(|(key, _)| key));
        Admission { limits: self.clone(), charge, meter, large_body: None }
    }

    /// Begins an upload or a download of a caller. This limit applies to every caller, whatever its rate.
    ///
    /// Errors: `RateLimitExceeded` if the caller has its share, `Overloaded` if there are too many in all.
    pub fn begin(&self, kind: Transfer, caller: &Did) -> Result<OpenTransfer, Error> {
        self.0.transfers.begin(kind, Key::of(caller.as_str()))
    }

    /// Returns a meter for the bytes of a download, which is paced.
    pub fn meter(&self, caller: &Did) -> Meter {
        let mut meter = Meter::new(self.clone(), self.account(caller).key);
        meter.pace();
        meter
    }

    /// Opens the account of a caller for an admitted request. With `needs_slot` it waits for a slot, for
    /// [`MAX_WAIT`] at most. It fails with `RateLimitExceeded` if too many of the caller's requests wait, or if the
    /// caller has exceeded its rate meanwhile.
    pub async fn open(&self, caller: &Did, needs_slot: bool) -> Result<Account, Error> {
        let mut account = self.account(caller);
        if let Some(key) = account.key.filter(|_| needs_slot) {
            account._slot = Some(self.slot(&self.0.slots, key).await?);
        }
        Ok(account)
    }

    async fn slot(&self, slots: &Slots, key: Key) -> Result<Slot, Error> {
        let Some(slot) = slots.take(key).await else {
            return Err(self.refusal(Scope::Slots, slots::RETRY_AFTER));
        };
        match self.0.buckets.callers.debt(key, Instant::now()) {
            Some(wait) => Err(self.refusal(Scope::Did, wait)),
            None => Ok(slot),
        }
    }

    /// Waits as [`Account::wait_for_capacity`] does.
    async fn wait_for_capacity(&self, key: Key) {
        while let Some(wait) = self.0.buckets.callers.wait_for_half(key, Instant::now()) {
            tokio::time::sleep(wait).await;
        }
    }

    /// Opens the account of a caller for work after its request was answered.
    pub fn account(&self, caller: &Did) -> Account {
        let key = (self.0.rates.per_did > 0).then(|| Key::of(caller.as_str()));
        Account { limits: self.clone(), key, _slot: None }
    }

    /// Charges a caller for the part of the work that exceeds the free allowance.
    fn charge(&self, key: Key, work: Work) {
        self.charge_units(key, work, work.units());
    }

    /// Charges this many units for a part of the work.
    fn charge_units(&self, key: Key, work: Work, units: f64) {
        if units > 0.0 {
            let cost = self.0.buckets.callers.interval().mul_f64(units);
            self.0.buckets.callers.charge(key, cost, Instant::now());
            self.publish(Scope::Did, key, cost);
            self.0.metrics.charged(work, units);
        }
    }

    /// Charges a typing indicator to its sender, or refuses it. Each replica counts this limit alone.
    pub fn admit_typing(&self, caller: &Did, convo: &ConvoId) -> Result<(), Error> {
        let key = Key::of(&format!("{caller} {convo}"));
        self.0.buckets.typing.take(key, Instant::now()).map(drop).map_err(|wait| self.refusal(Scope::Typing, wait))
    }

    /// Returns the bucket of a member's commits in a conversation.
    pub fn commits(&self, caller: &Did, convo: &ConvoId) -> CommitBucket {
        CommitBucket(Key::of(&format!("{caller} {convo}")))
    }

    /// Returns how long the member must wait before its next commit there; `None` if it need not.
    pub fn commit_wait(&self, bucket: CommitBucket) -> Option<Duration> {
        if self.0.rates.commits == 0 { None } else { self.0.buckets.commits.wait(bucket.0, Instant::now()) }
    }

    /// Charges an accepted commit, also if an equal earlier request was accepted.
    pub fn committed(&self, bucket: CommitBucket) {
        if self.0.rates.commits > 0 {
            let unit = self.0.buckets.commits.interval();
            self.0.buckets.commits.charge(bucket.0, unit, Instant::now());
            self.publish(Scope::Commits, bucket.0, unit);
        }
    }

    /// Error for a member that has used up its commits.
    pub fn refuse_commit(&self, wait: Duration) -> Error {
        self.refusal(Scope::Commits, wait)
    }

    /// Returns how long a caller must wait if it is a former member that has been refused too often; `None` if it need
    /// not. Each replica counts this limit alone.
    pub fn former_wait(&self, caller: &Did, convo: &ConvoId) -> Option<Duration> {
        self.0.buckets.former.wait(Key::of(&format!("{caller} {convo}")), Instant::now())
    }

    /// Charges a write that was refused because the caller is no longer a member.
    pub fn charge_former(&self, caller: &Did, convo: &ConvoId) {
        let former = &self.0.buckets.former;
        former.charge(Key::of(&format!("{caller} {convo}")), former.interval(), Instant::now());
    }

    /// Counts an external commit that its transaction refused.
    pub fn external_commit_refused(&self) {
        self.0.metrics.external_commit_refused();
    }

    /// Error for a former member that keeps writing.
    pub fn refuse_former(&self, wait: Duration) -> Error {
        self.refusal(Scope::Former, wait)
    }

    /// Returns the bucket of a conversation's writes.
    pub fn convo(&self, convo: &ConvoId) -> ConvoBucket {
        ConvoBucket(Key::of(convo.as_str()))
    }

    /// Returns how long the conversation is over its limit; `None` if it is not. This reveals that the conversation
    /// exists, so it is for members only.
    pub fn wait(&self, convo: ConvoBucket) -> Option<Duration> {
        if self.0.rates.per_convo == 0 { None } else { self.0.buckets.convos.wait(convo.0, Instant::now()) }
    }

    /// Charges an accepted write, also if an equal earlier request was accepted. Callers that disconnect before the
    /// reply are limited by their own rate only: their membership is not known here by then.
    pub fn written(&self, convo: ConvoBucket) {
        if self.0.rates.per_convo > 0 {
            let unit = self.0.buckets.convos.interval();
            self.0.buckets.convos.charge(convo.0, unit, Instant::now());
            self.publish(Scope::Convo, convo.0, unit);
        }
    }

    /// Error for a member while its conversation is over its limit.
    pub fn refuse_write(&self, wait: Duration) -> Error {
        self.refusal(Scope::Convo, wait)
    }

    fn publish(&self, scope: Scope, key: Key, cost: Duration) {
        if let Some(sharing) = &self.0.sharing {
            sharing.publish(scope, key, cost);
        }
    }

    fn refusal(&self, scope: Scope, wait: Duration) -> Error {
        self.0.metrics.rate_limited(scope);
        let mut error = Code::RateLimitExceeded.because(match scope {
            Scope::Did => {
                format!(
                    "you send more than {} requests per second (an expensive request counts as several)",
                    self.0.rates.per_did
                )
            }
            Scope::Slots => {
                format!("too many of your requests are in progress (at most {}) or waiting", max_concurrent())
            }
            Scope::Typing => {
                format!("you send more than {TYPING_RATE} typing indicators per second in this conversation")
            }
            Scope::Commits => {
                format!(
                    "you send more than {} commits per minute in this conversation; nothing was changed",
                    self.0.rates.commits
                )
            }
            Scope::Former => "you are no longer a member of this conversation; stop writing to it".to_owned(),
            Scope::Convo => {
                format!(
                    "this conversation receives more than {} writes per second; nothing was changed",
                    self.0.rates.per_convo
                )
            }
        });
        let ms = wait.as_nanos().div_ceil(1_000_000);
        error.details.retry_after_ms = Some(u64::try_from(ms).unwrap_or(u64::MAX));
        error
    }
}
