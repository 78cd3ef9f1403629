//! From envelopes to mailboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinSet};

use crate::clock::Clock;
use crate::config::MailboxConfig;
use crate::error::Error;
use crate::store::mailboxes::{Attempt, End, Room};
use crate::store::{Lane, Store, chance};

use super::hosts::{Hosts, MOST_AT_NEW_HOST, Verdict};
use super::place;
use super::webhook::{Answer, Client};

/// Attempts of one replica that run at a time.
const MOST_AT_ONCE: usize = 64;
/// Those of them that are for one recipient, whatever names its mailboxes have.
const MOST_PER_RECIPIENT: usize = 8;
/// Envelopes that are put off at a time because their hosts rest.
const POSTPONED_AT_ONCE: i64 = 1_000;
/// Ciphertext that attempts may hold in memory together, in KiB. Each holds its part some three times over.
const MOST_KIB: u32 = 32 * 1024;
/// How often it is looked whether anything is due.
const POLL: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const LONGEST_RETRY: Duration = Duration::from_secs(3_600);
/// What a claim lasts beyond the time of its attempt, to read the entry and to note the end.
const LEASE_MARGIN: Duration = Duration::from_secs(5);
/// How often the backlog is counted.
const COUNT: Duration = Duration::from_secs(15);

/// The loop, and what its attempts share.
pub(super) struct Outbox {
    shared: Arc<Shared>,
    made: Arc<Notify>,
    hosts: Hosts,
    /// The hosts and recipients of the attempts that run.
    at: HashMap<Id, (String, String)>,
    running: JoinSet<Verdict>,
}

struct Shared {
    store: Store,
    config: MailboxConfig,
    client: Client,
    memory: Semaphore,
}

impl Outbox {
    pub fn new(store: Store, config: MailboxConfig, client: Client, made: Arc<Notify>) -> Self {
        let shared = Arc::new(Shared { store, config, client, memory: Semaphore::new(MOST_KIB as usize) });
        Self { shared, made, hosts: Hosts::default(), at: HashMap::new(), running: JoinSet::new() }
    }

    /// Until told to stop; then it waits for the attempts that run.
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
                        tracing::warn!(%error, "envelopes cannot be read; trying until they can");
                    }
                    0
                }
            };
            if counted.is_none_or(|at| at.elapsed() >= COUNT) {
                counted = Some(Instant::now());
                self.count().await;
            }
            if begun > 0 && self.running.len() < MOST_AT_ONCE {
                continue;
            }
            tokio::select! {
                ended = self.running.join_next_with_id(), if !self.running.is_empty() => {
                    if let Some(ended) = ended {
                        self.ended(ended);
                    }
                }
                () = self.made.notified() => {}
                () = tokio::time::sleep(POLL) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        while self.running.join_next().await.is_some() {}
    }

    fn ended(&mut self, ended: Result<(Id, Verdict), tokio::task::JoinError>) {
        // An attempt that panicked comes back when its claim is over.
        let (id, verdict) = ended.unwrap_or_else(|panicked| (panicked.id(), Verdict::Unasked));
        if let Some((host, _)) = self.at.remove(&id) {
            let first = self.shared.config.first_retry;
            self.hosts.ended(&host, verdict, Instant::now(), |number| wait(first, number));
        }
    }

    /// Begins what is due and has room, and says how many attempts that is.
    async fn begin(&mut self) -> Result<usize, Error> {
        let room = MOST_AT_ONCE - self.running.len();
        if room == 0 || !self.shared.store.reader_for(Lane::Background).await?.envelope_is_due().await? {
            return Ok(0);
        }
        let now = Instant::now();
        let resting = self.hosts.resting(now);
        if !resting.is_empty() {
            self.shared.store.postpone_envelopes(&resting, POSTPONED_AT_ONCE).await?;
        }
        let mut busy: HashMap<String, usize> = HashMap::new();
        for (_, recipient) in self.at.values() {
            *busy.entry(recipient.clone()).or_default() += 1;
        }
        let left = busy.into_iter().map(|(recipient, running)| (recipient, MOST_PER_RECIPIENT.saturating_sub(running)));
        let room = Room {
            all: room,
            hosts: self.hosts.room(now).collect(),
            other_host: MOST_AT_NEW_HOST,
            recipients: left.collect(),
            other_recipient: MOST_PER_RECIPIENT,
        };
        let lease = self.shared.config.timeout + LEASE_MARGIN;
        let attempts = self.shared.store.claim_envelopes(room, lease).await?;
        let begun = attempts.len();
        for attempt in attempts {
            let (shared, at) = (self.shared.clone(), (attempt.host.clone(), attempt.recipient.clone()));
            self.hosts.begun(&at.0);
            let id = self.running.spawn(async move { shared.attempt(attempt).await }).id();
            self.at.insert(id, at);
        }
        Ok(begun)
    }

    async fn count(&self) {
        let Shared { store, .. } = &*self.shared;
        if let Ok(reader) = store.reader_for(Lane::Background).await
            && let Ok((waiting, dead)) = reader.backlog().await
        {
            store.metrics().mailbox_backlog(waiting, dead, self.hosts.resting(Instant::now()).len());
        }
    }
}

impl Shared {
    /// One attempt, to its note in the table. If that fails, the claim's own end is the note.
    async fn attempt(&self, attempt: Attempt) -> Verdict {
        let start = Instant::now();
        let id = attempt.id.clone();
        let (end, verdict) = self.end(&attempt).await;
        let outcome = match &end {
            End::Delivered => "delivered",
            End::Failed(..) => "failed",
            End::Dead(_) => "dead",
            End::Withdrawn => "withdrawn",
        };
        self.store.metrics().mailbox_attempt(outcome, start.elapsed());
        if let End::Dead(why) = &end {
            tracing::warn!(envelope = id, why, "an envelope is dead");
        }
        if let Err(error) = self.store.settle_envelope(attempt, end).await {
            tracing::warn!(envelope = id, %error, "the end of an attempt could not be noted; it will be repeated");
        }
        verdict
    }

    async fn end(&self, attempt: &Attempt) -> (End, Verdict) {
        // Only claims that nobody ended come this far.
        if attempt.number > self.config.max_attempts {
            return (End::Dead("no attempt came to an end".to_owned()), Verdict::Unasked);
        }
        match tokio::time::timeout(self.config.timeout, self.hand_over(attempt)).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) => {
                let why = format!("the entry could not be read: {}", error.code.name());
                (self.failed(attempt, why, None), Verdict::Unasked)
            }
            Err(_) => {
                (self.failed(attempt, "the mailbox did not answer in time".to_owned(), None), Verdict::Badly(None))
            }
        }
    }

    async fn hand_over(&self, attempt: &Attempt) -> Result<(End, Verdict), Error> {
        let kib = u32::try_from(attempt.bytes / 1024 + 1).unwrap_or(MOST_KIB).min(MOST_KIB);
        let _memory = self.memory.acquire_many(kib).await.expect("nobody closes it");
        let Some(letter) = self.store.reader_for(Lane::Background).await?.letter(attempt).await? else {
            return Ok((End::Dead("the entry is not kept any more".to_owned()), Verdict::Unasked));
        };
        let Some(mailbox) = letter.mailbox else { return Ok((End::Withdrawn, Verdict::Unasked)) };
        // What was allowed when it was set may not be now, and the client does not look at addresses that need no name.
        if let Err(why) = place::check(&mailbox.url, self.config.allow_private_hosts) {
            return Ok((End::Dead(why.to_string()), Verdict::Unasked));
        }
        let now = Clock::system().now();
        let answer = self.client.post(&mailbox, &attempt.id, &attempt.recipient, &letter.message, now).await;
        Ok(match answer {
            Answer::Taken => (End::Delivered, Verdict::Well),
            Answer::Gone(why) => (End::Dead(why), Verdict::Unasked),
            Answer::Failed(why, asked) => {
                let asked = asked.map(|wait| wait.min(LONGEST_RETRY));
                (self.failed(attempt, why, asked), Verdict::Badly(asked))
            }
        })
    }

    /// The end of an attempt that failed; the next one is due no sooner than the host has asked for.
    fn failed(&self, attempt: &Attempt, why: String, asked: Option<Duration>) -> End {
        match attempt.number >= self.config.max_attempts {
            true => End::Dead(why),
            false => End::Failed(wait(self.config.first_retry, attempt.number).max(asked.unwrap_or_default()), why),
        }
    }
}

/// The wait after the n-th failed attempt: twice as long each time. Half of it is fixed and half is chance, so that envelopes that
/// failed together do not come back together.
fn wait(first: Duration, number: i32) -> Duration {
    let doubled = 2_u32.saturating_pow(number.saturating_sub(1).clamp(0, 31).cast_unsigned());
    let whole = first.saturating_mul(doubled).min(LONGEST_RETRY);
    whole / 2 + (whole / 2).mul_f64(chance())
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
