//! Delivers envelopes to mailboxes, and challenges new mailboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinSet};
use ulid::Ulid;

use crate::bodies::Bodies;
use crate::clock::{Clock, jitter};
use crate::config::MailboxConfig;
use crate::error::Error;
use crate::store::mailboxes::{Attempt, AttemptEnd, Challenge, ClaimLimits, MAX_EXPAND_TIME, MailboxKey, Proof};
use crate::store::{Lane, Store};

use super::hosts::{HostResult, Hosts, MAX_AT_NEW_HOST};
use super::metrics::DeliveryMetrics;
use super::webhook::{Client, WebhookResult};
use super::webhook_url;

/// Maximum number of concurrent attempts of one replica.
const MAX_CONCURRENT: usize = 64;
/// Maximum number of them for one recipient, over all of its mailboxes.
const MAX_PER_RECIPIENT: usize = 8;
/// Maximum number of concurrent challenges of one replica; they count as attempts.
const MAX_CONCURRENT_CHALLENGES: usize = 8;
/// Unanswered challenges after which a mailbox is refused.
const MAX_CHALLENGES: i32 = 5;
/// Attempts after which an envelope is dead that is answered with a permanent 4xx.
const MAX_REFUSALS: i32 = 3;
/// Envelopes that are postponed in one statement because their hosts pause.
const MAX_POSTPONED: i64 = 1_000;
/// Maximum ciphertext of concurrent attempts, in KiB. Each attempt holds it about three times.
const MAX_KIB: u32 = 32 * 1024;
/// Interval at which due envelopes are polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval at which all waiting envelopes are checked, not only those due since the last poll. This finds envelopes of
/// transactions that ran unusually long.
const FULL_SCAN_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum wait between two attempts.
const MAX_RETRY_WAIT: Duration = Duration::from_secs(3_600);
/// Part of a lease beyond the time of its attempt, to read the entry and to store the result.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// Pause after an attempt for which the ciphertext could not be read from the blob store. It does not count as an attempt.
const BODY_PAUSE: Duration = Duration::from_secs(15);
/// Interval at which the backlog is counted.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(15);
/// Reason for an attempt that timed out.
const TIMED_OUT: &str = "the mailbox did not answer in time";

/// The delivery loop, with the state that its attempts share.
pub(super) struct Outbox {
    shared: Arc<Shared>,
    made: Arc<Notify>,
    hosts: Hosts,
    /// Running attempts by task.
    at: HashMap<Id, Running>,
    running: JoinSet<HostResult>,
    /// Time before which no envelope is due, by PostgreSQL's clock, and the time of the last full check.
    since: Option<DateTime<Utc>>,
    looked: Option<Instant>,
}

/// A running attempt.
struct Running {
    host: String,
    recipient: String,
    is_challenge: bool,
}

struct Shared {
    store: Store,
    bodies: Bodies,
    config: MailboxConfig,
    client: Client,
    memory: Semaphore,
    metrics: DeliveryMetrics,
    clock: Clock,
}

impl Outbox {
    pub fn new(
        store: Store,
        bodies: Bodies,
        config: MailboxConfig,
        client: Client,
        made: Arc<Notify>,
        metrics: DeliveryMetrics,
        clock: Clock,
    ) -> Self {
        let shared = Arc::new(Shared {
            store,
            bodies,
            config,
            client,
            memory: Semaphore::new(MAX_KIB as usize),
            metrics,
            clock,
        });
        Self {
            shared,
            made,
            hosts: Hosts::default(),
            at: HashMap::new(),
            running: JoinSet::new(),
            since: None,
            looked: None,
        }
    }

    /// Runs until it is stopped, and then waits for running attempts.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let (mut failing, mut counted) = (false, None::<Instant>);
        while !*stop.borrow() {
            while let Some(ended) = self.running.try_join_next_with_id() {
                self.ended(ended);
            }
            let begun = match self.begin().await {
                Ok(begun) => {
                    failing = false;
                    begun
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "envelopes cannot be read; retrying");
                    }
                    0
                }
            };
            if counted.is_none_or(|at| at.elapsed() >= BACKLOG_INTERVAL) {
                counted = Some(Instant::now());
                self.count().await;
            }
            if begun > 0 && self.running.len() < MAX_CONCURRENT {
                continue;
            }
            tokio::select! {
                ended = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    if let Some(ended) = ended {
                        self.ended(ended);
                    }
                }
                () = self.made.notified() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    fn ended(&mut self, ended: Result<(Id, HostResult), tokio::task::JoinError>) {
        // An attempt that panicked is retried when its lease ends.
        let (id, verdict) = ended.unwrap_or_else(|panicked| (panicked.id(), HostResult::NotCalled));
        if let Some(Running { host, .. }) = self.at.remove(&id) {
            let first = self.shared.config.first_retry;
            self.hosts.ended(&host, verdict, Instant::now(), |number| wait(first, number));
        }
    }

    /// Starts due attempts and challenges within the limits, and returns how many.
    async fn begin(&mut self) -> Result<usize, Error> {
        if self.running.len() >= MAX_CONCURRENT {
            return Ok(0);
        }
        if self.looked.is_none_or(|at| at.elapsed() >= FULL_SCAN_INTERVAL) {
            (self.since, self.looked) = (None, Some(Instant::now()));
        }
        let due = self.shared.store.reader_for(Lane::Background).await?.mailboxes_due(self.since).await?;
        if self.since.is_none() {
            let late = self.shared.clock.now() - MAX_EXPAND_TIME - due.since;
            self.shared.metrics.overdue(late.to_std().unwrap_or_default());
        }
        self.since = Some(due.since);
        let challenges = if due.challenges { self.begin_challenges().await? } else { 0 };
        let attempts = if due.envelopes { self.begin_attempts(due.since).await? } else { 0 };
        Ok(challenges + attempts)
    }

    /// Claims one challenge at a time, because the limit of a host depends on its running attempts.
    async fn begin_challenges(&mut self) -> Result<usize, Error> {
        let mut begun = 0;
        while self.running.len() < MAX_CONCURRENT
            && self.at.values().filter(|running| running.is_challenge).count() < MAX_CONCURRENT_CHALLENGES
        {
            let full = self.hosts.room(Instant::now()).filter(|(_, room)| *room == 0).map(|(host, _)| host).collect();
            let lease = self.shared.config.timeout + LEASE_MARGIN;
            let Some(challenge) = self.shared.store.claim_challenge(full, lease).await? else { break };
            let (host, recipient) = (challenge.mailbox.host.clone(), challenge.recipient().to_owned());
            self.start(host, recipient, true, |shared| async move { shared.ask(challenge).await });
            begun += 1;
        }
        Ok(begun)
    }

    async fn begin_attempts(&mut self, since: DateTime<Utc>) -> Result<usize, Error> {
        let room = MAX_CONCURRENT - self.running.len();
        if room == 0 {
            return Ok(0);
        }
        let now = Instant::now();
        let resting = self.hosts.resting(now);
        if !resting.is_empty() {
            self.shared.store.postpone_envelopes(&resting, MAX_POSTPONED, since).await?;
        }
        let mut busy: HashMap<String, usize> = HashMap::new();
        for running in self.at.values() {
            *busy.entry(running.recipient.clone()).or_default() += 1;
        }
        let left = busy.into_iter().map(|(recipient, running)| (recipient, MAX_PER_RECIPIENT.saturating_sub(running)));
        let room = ClaimLimits {
            all: room,
            hosts: self.hosts.room(now).collect(),
            other_host: MAX_AT_NEW_HOST,
            recipients: left.collect(),
            other_recipient: MAX_PER_RECIPIENT,
        };
        let lease = self.shared.config.timeout + LEASE_MARGIN;
        let attempts = self.shared.store.claim_envelopes(room, lease, since).await?;
        let begun = attempts.len();
        for attempt in attempts {
            let (host, recipient) = (attempt.host.clone(), attempt.recipient.clone());
            self.start(host, recipient, false, |shared| async move { shared.attempt(attempt).await });
        }
        Ok(begun)
    }

    fn start<F>(&mut self, host: String, recipient: String, is_challenge: bool, work: impl FnOnce(Arc<Shared>) -> F)
    where
        F: Future<Output = HostResult> + Send + 'static,
    {
        self.hosts.begun(&host);
        let id = self.running.spawn(work(self.shared.clone())).id();
        self.at.insert(id, Running { host, recipient, is_challenge });
    }

    async fn count(&self) {
        let Shared { store, metrics, .. } = &*self.shared;
        if let Ok(reader) = store.reader_for(Lane::Background).await
            && let Ok((waiting, dead)) = reader.backlog().await
        {
            metrics.backlog(waiting, dead, self.hosts.resting(Instant::now()).len());
        }
    }
}

impl Shared {
    /// Sends one challenge and stores the result. If storing fails, the end of the lease is the result.
    async fn ask(&self, challenge: Challenge) -> HostResult {
        let proof = self.proof(&challenge).await;
        let outcome = match &proof {
            Proof::Given => "verified",
            Proof::Failed(_) => "failed",
            Proof::Refused(_) => "refused",
        };
        self.metrics.challenge(outcome);
        if let Err(error) = self.store.settle_challenge(challenge, proof).await {
            tracing::warn!(%error, "the result of a challenge could not be stored; the challenge will be retried");
        }
        // A challenge does not count for its host: it says nothing about how the host accepts envelopes, and a stranger
        // could otherwise make an unrelated host pause. Challenges have limits of their own.
        HostResult::NotCalled
    }

    async fn proof(&self, challenge: &Challenge) -> Proof {
        if let Some(why) = challenge.futile {
            return Proof::Refused(why.to_owned());
        }
        if let Err(why) = webhook_url::check(&challenge.mailbox.url, self.config.allow_private_hosts) {
            return Proof::Refused(why.to_string());
        }
        if challenge.proved {
            return Proof::Given;
        }
        if challenge.number > MAX_CHALLENGES {
            return Proof::Refused("every challenge timed out".to_owned());
        }
        let id = format!("challenge-{}", Ulid::new());
        let asking = self.client.challenge(challenge, &id, self.clock.now());
        let answer = tokio::time::timeout(self.config.timeout, asking).await;
        let answer = answer.unwrap_or_else(|_| WebhookResult::Failed(TIMED_OUT.to_owned(), None));
        let (why, asked) = match answer {
            WebhookResult::Accepted => return Proof::Given,
            WebhookResult::Gone(why) => return Proof::Refused(why),
            WebhookResult::Refused(why) => (why, None),
            WebhookResult::Failed(why, asked) => (why, asked.map(|wait| wait.min(MAX_RETRY_WAIT))),
        };
        if challenge.number >= MAX_CHALLENGES {
            return Proof::Refused(why);
        }
        // Four times as long each time.
        let pause = wait(self.config.first_retry, 2 * challenge.number - 1).max(asked.unwrap_or_default());
        Proof::Failed(pause)
    }

    /// Makes one attempt and stores the result. If storing fails, the end of the lease is the result.
    async fn attempt(&self, attempt: Attempt) -> HostResult {
        let start = Instant::now();
        let id = attempt.id.clone();
        let mut mailbox = None;
        let (end, verdict) = self.end(&attempt, &mut mailbox).await;
        let outcome = match &end {
            AttemptEnd::Delivered => "delivered",
            AttemptEnd::Failed(..) => "failed",
            AttemptEnd::Early(..) => "early",
            AttemptEnd::Dead(_) | AttemptEnd::Misplaced(_) => "dead",
            AttemptEnd::Withdrawn => "withdrawn",
        };
        self.metrics.attempt(outcome, start.elapsed());
        if let AttemptEnd::Dead(why) | AttemptEnd::Misplaced(why) = &end {
            tracing::warn!(envelope = id, why, "an envelope is dead");
        }
        match self.store.settle_envelope(attempt, end, mailbox).await {
            Ok(suspended) if suspended => self.metrics.suspended(),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(envelope = id, %error, "the result of an attempt could not be stored; the attempt will be retried");
            }
        }
        verdict
    }

    /// Makes the attempt, and reports the mailbox that it concerns and whether that was failing.
    async fn end(&self, attempt: &Attempt, mailbox: &mut Option<(MailboxKey, bool)>) -> (AttemptEnd, HostResult) {
        // Only a lease that was never settled has such a number.
        if attempt.number > self.config.max_attempts {
            return (AttemptEnd::Dead("every attempt timed out".to_owned()), HostResult::NotCalled);
        }
        match tokio::time::timeout(self.config.timeout, self.deliver(attempt, mailbox)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                let why = format!("the entry could not be read: {}", error.code.name());
                (self.failed(attempt, why, None), HostResult::NotCalled)
            }
            // The time was spent on memory or the database, and the host was not called.
            Err(_) if mailbox.is_none() => (self.failed(attempt, TIMED_OUT.to_owned(), None), HostResult::NotCalled),
            Err(_) => (self.failed(attempt, TIMED_OUT.to_owned(), None), HostResult::Failed(None)),
        }
    }

    async fn deliver(
        &self,
        attempt: &Attempt,
        tells: &mut Option<(MailboxKey, bool)>,
    ) -> Result<(AttemptEnd, HostResult), Error> {
        let kib = u32::try_from(attempt.bytes / 1024 + 1).unwrap_or(MAX_KIB).min(MAX_KIB);
        let _memory = self.memory.acquire_many(kib).await.expect("the semaphore is never closed");
        let Some(body) = self.store.reader_for(Lane::Background).await?.envelope_body(attempt).await? else {
            return Ok((AttemptEnd::Dead("the entry is no longer stored".to_owned()), HostResult::NotCalled));
        };
        let Some(mailbox) = body.mailbox else { return Ok((AttemptEnd::Withdrawn, HostResult::NotCalled)) };
        if !mailbox.verified {
            // About as often as the mailbox is challenged.
            let pause = wait(self.config.first_retry, 2 * mailbox.challenges - 1);
            let why = "the mailbox has not answered its challenge yet".to_owned();
            return Ok((AttemptEnd::Early(pause, why), HostResult::NotCalled));
        }
        // The other half of the time is the mailbox's.
        let filling = tokio::time::timeout(self.config.timeout / 2, self.bodies.fill(&body.message));
        if !matches!(filling.await, Ok(Ok(()))) {
            let why = "the entry could not be read from the blob store".to_owned();
            return Ok((AttemptEnd::Early(BODY_PAUSE, why), HostResult::NotCalled));
        }
        *tells = Some((mailbox.key, mailbox.fails));
        // The rules may have changed since it was set, and the client does not check addresses that need no lookup.
        if let Err(why) = webhook_url::check(&mailbox.webhook.url, self.config.allow_private_hosts) {
            return Ok((AttemptEnd::Misplaced(why.to_string()), HostResult::NotCalled));
        }
        let now = self.clock.now();
        let answer = self.client.post(&mailbox.webhook, &attempt.id, &attempt.recipient, &body.message, now).await;
        Ok(match answer {
            WebhookResult::Accepted => (AttemptEnd::Delivered, HostResult::Succeeded),
            WebhookResult::Gone(why) => (AttemptEnd::Dead(why), HostResult::NotCalled),
            WebhookResult::Refused(why) if attempt.number >= MAX_REFUSALS => {
                (AttemptEnd::Dead(why), HostResult::Failed(None))
            }
            WebhookResult::Refused(why) => (self.failed(attempt, why, None), HostResult::Failed(None)),
            WebhookResult::Failed(why, asked) => {
                let asked = asked.map(|wait| wait.min(MAX_RETRY_WAIT));
                (self.failed(attempt, why, asked), HostResult::Failed(asked))
            }
        })
    }

    /// Result of a failed attempt; the next one is due no sooner than the host has asked for.
    fn failed(&self, attempt: &Attempt, why: String, asked: Option<Duration>) -> AttemptEnd {
        match attempt.number >= self.config.max_attempts {
            true => AttemptEnd::Dead(why),
            false => {
                AttemptEnd::Failed(wait(self.config.first_retry, attempt.number).max(asked.unwrap_or_default()), why)
            }
        }
    }
}

/// Returns the wait after the n-th failed attempt: twice as long each time. Half of it is random, so that envelopes
/// that failed together are not retried together.
fn wait(first: Duration, number: i32) -> Duration {
    let doubled = 2_u32.saturating_pow(number.saturating_sub(1).clamp(0, 31).cast_unsigned());
    let whole = first.saturating_mul(doubled).min(MAX_RETRY_WAIT);
    whole / 2 + (whole / 2).mul_f64(jitter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_an_hour_and_vary() {
        let first = Duration::from_secs(5);
        for (number, whole) in [(1, 5), (2, 10), (3, 20), (10, 2_560), (11, 3_600), (1_000, 3_600)] {
            let waits: Vec<_> = (0..100).map(|_| wait(first, number)).collect();
            let whole = Duration::from_secs(whole);
            assert!(waits.iter().all(|wait| *wait >= whole / 2 && *wait <= whole), "{number}: {waits:?}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{number}");
        }
    }
}
