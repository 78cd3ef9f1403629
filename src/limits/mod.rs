//! How often somebody may ask, and how often a conversation may be written: more than that is 429 with the time to wait.
//!
//! - Per DID, all requests of one caller, whatever comes of them. The pipeline of every XRPC route asks here when it knows the
//!   caller and before it reads the body or spends the token. Only who repeats a used token is not charged: that need not be its owner.
//! - Per conversation, the writes of all members together that were accepted. The serializer asks here before a write and charges
//!   after it, so that strangers, who are never accepted, use nothing up.
//! - Per DID and conversation, typing indicators, which cost everybody in it an event.
//!
//! Every decision is made at once, in memory ([`buckets`]), and never waits. Where there is Redis, replicas tell each other
//! what they let through ([`shared`]); without it each keeps the limits for itself.

mod buckets;
mod shared;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::metrics::Metrics;
use crate::redis::Redis;

use buckets::{Buckets, Key, PaidOff};
use shared::Sharing;

pub use buckets::{BURST, MOST_AHEAD, MOST_BUCKETS};

/// What Redis is asked for here, as the log says when it does not answer.
const PURPOSE: &str = "sharing rate limits between replicas";

/// What a limit is counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// One caller.
    Did,
    /// One conversation.
    Convo,
    /// One caller who types in one conversation.
    Typing,
}

impl Scope {
    /// As metrics and keys in Redis have it.
    pub fn label(self) -> &'static str {
        match self {
            Scope::Did => "did",
            Scope::Convo => "convo",
            Scope::Typing => "typing",
        }
    }
}

/// Typing indicators of one caller in one conversation per second. Clients send one every few seconds.
const TYPING_RATE: u32 = 2;

/// Requests and writes per second; 0 is no limit. Bursts of [`BURST`] at the full rate are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Requests of one caller.
    pub per_did: u32,
    /// Accepted writes to one conversation.
    pub per_convo: u32,
}

/// The limits of a server. Cheap to clone.
#[derive(Clone)]
pub struct RateLimits(Arc<Inner>);

struct Inner {
    rates: Rates,
    buckets: Arc<AllBuckets>,
    sharing: Option<Sharing>,
    metrics: Metrics,
}

/// The buckets of both limits.
struct AllBuckets {
    callers: Buckets,
    convos: Buckets,
    typing: Buckets,
}

impl AllBuckets {
    fn of(&self, scope: Scope) -> &Buckets {
        match scope {
            Scope::Did => &self.callers,
            Scope::Convo => &self.convos,
            Scope::Typing => &self.typing,
        }
    }
}

/// A request that was charged to its caller. The other replicas hear of it when this ends, however it ends.
pub struct Admission {
    limits: RateLimits,
    /// Whose bucket, and until when the charge is not paid off. `None`: there is nothing to tell.
    charge: Option<(Key, PaidOff)>,
}

impl Admission {
    /// Gives back what was charged: somebody else sent the request, by a token that its owner has used before.
    pub fn forgive(mut self) {
        if let Some((key, paid_off)) = self.charge.take() {
            self.limits.0.buckets.callers.refund(key, paid_off, Instant::now());
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some((key, _)) = self.charge {
            self.limits.tell(Scope::Did, key);
        }
    }
}

/// A conversation's bucket.
#[derive(Clone, Copy)]
pub struct ConvoBucket(Key);

impl RateLimits {
    /// Makes the limits, shared through Redis if there is one, by a task on `runtime`.
    pub fn new(rates: Rates, redis: Option<&Redis>, metrics: Metrics, runtime: &Handle) -> Self {
        let buckets = Arc::new(AllBuckets {
            callers: Buckets::new(rates.per_did),
            convos: Buckets::new(rates.per_convo),
            typing: Buckets::new(TYPING_RATE),
        });
        let sharing =
            redis.map(|redis| Sharing::start(redis.also_for(PURPOSE), buckets.clone(), metrics.clone(), runtime));
        Self(Arc::new(Inner { rates, buckets, sharing, metrics }))
    }

    /// Charges a request to its caller, or refuses it with `RateLimitExceeded` and charges nothing.
    pub fn admit(&self, caller: &Did) -> Result<Admission, Error> {
        if self.0.rates.per_did == 0 {
            return Ok(Admission { limits: self.clone(), charge: None });
        }
        let key = Key::of(caller.as_str());
        match self.0.buckets.callers.take(key, Instant::now()) {
            Ok(paid_off) => Ok(Admission { limits: self.clone(), charge: Some((key, paid_off)) }),
            Err(wait) => Err(self.refusal(Scope::Did, wait)),
        }
    }

    /// Charges a typing indicator to its sender, or refuses it. Every replica keeps this limit alone.
    pub fn admit_typing(&self, caller: &Did, convo: &ConvoId) -> Result<(), Error> {
        let key = Key::of(&format!("{caller} {convo}"));
        self.0.buckets.typing.take(key, Instant::now()).map(drop).map_err(|wait| self.refusal(Scope::Typing, wait))
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
            self.0.buckets.convos.charge(convo.0, Instant::now());
            self.tell(Scope::Convo, convo.0);
        }
    }

    /// What a member is told while its conversation is over its limit.
    pub fn refuse_write(&self, wait: Duration) -> Error {
        self.refusal(Scope::Convo, wait)
    }

    fn tell(&self, scope: Scope, key: Key) {
        if let Some(sharing) = &self.0.sharing {
            sharing.tell(scope, key);
        }
    }

    fn refusal(&self, scope: Scope, wait: Duration) -> Error {
        self.0.metrics.rate_limited(scope);
        let mut error = Code::RateLimitExceeded.because(match scope {
            Scope::Did => format!("more than {} requests per second come from you", self.0.rates.per_did),
            Scope::Typing => format!("more than {TYPING_RATE} typing indicators per second come from you here"),
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
