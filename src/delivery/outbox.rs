//! From envelopes to mailboxes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::{Id, JoinSet};

use crate::clock::Clock;
use crate::config::MailboxConfig;
use crate::error::Error;
use crate::store::mailboxes::{Attempt, End};
use crate::store::{Lane, Store, chance};

use super::place;
use super::webhook::{Answer, Client};

/// Attempts of one replica that run at a time.
const MOST_AT_ONCE: usize = 64;
/// Those of them that go to one host, so that a slow one cannot take them all.
const MOST_PER_HOST: usize = 8;
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
    /// The hosts of the attempts that run.
    hosts: HashMap<Id, String>,
    running: JoinSet<()>,
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
        Self { shared, made, hosts: HashMap::new(), running: JoinSet::new() }
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

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        // An attempt that panicked comes back when its claim is over.
        let id = ended.map_or_else(|panicked| panicked.id(), |(id, ())| id);
        self.hosts.remove(&id);
    }

    /// Begins what is due and has room, and says how many attempts that is.
    async fn begin(&mut self) -> Result<usize, Error> {
        let room = MOST_AT_ONCE - self.running.len();
        if room == 0 || !self.shared.store.reader_for(Lane::Background).await?.envelope_is_due().await? {
            return Ok(0);
        }
        let mut busy: HashMap<String, usize> = HashMap::new();
        for host in self.hosts.values() {
            *busy.entry(host.clone()).or_default() += 1;
        }
        let left = busy.into_iter().map(|(host, running)| (host, MOST_PER_HOST.saturating_sub(running)));
        let lease = self.shared.config.timeout + LEASE_MARGIN;
        let attempts = self.shared.store.claim_envelopes(room, lease, left, MOST_PER_HOST).await?;
        let begun = attempts.len();
        for attempt in attempts {
            let (shared, host) = (self.shared.clone(), attempt.host.clone());
            let id = self.running.spawn(async move { shared.attempt(attempt).await }).id();
            self.hosts.insert(id, host);
        }
        Ok(begun)
    }

    async fn count(&self) {
        let Shared { store, .. } = &*self.shared;
        if let Ok(reader) = store.reader_for(Lane::Background).await
            && let Ok((waiting, dead)) = reader.backlog().await
        {
            store.metrics().mailbox_backlog(waiting, dead);
        }
    }
}

impl Shared {
    /// One attempt, to its note in the table. If that fails, the claim's own end is the note.
    async fn attempt(&self, attempt: Attempt) {
        let start = Instant::now();
        let id = attempt.id.clone();
        let end = self.end(&attempt).await;
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
    }

    async fn end(&self, attempt: &Attempt) -> End {
        // Only claims that nobody ended come this far.
        if attempt.number > self.config.max_attempts {
            return End::Dead("no attempt came to an end".to_owned());
        }
        match tokio::time::timeout(self.config.timeout, self.hand_over(attempt)).await {
            Ok(Ok(end)) => end,
            Ok(Err(error)) => self.failed(attempt, format!("the entry could not be read: {}", error.code.name())),
            Err(_) => self.failed(attempt, "the mailbox did not answer in time".to_owned()),
        }
    }

    async fn hand_over(&self, attempt: &Attempt) -> Result<End, Error> {
        let kib = u32::try_from(attempt.bytes / 1024 + 1).unwrap_or(MOST_KIB).min(MOST_KIB);
        let _memory = self.memory.acquire_many(kib).await.expect("nobody closes it");
        let Some(letter) = self.store.reader_for(Lane::Background).await?.letter(attempt).await? else {
            return Ok(End::Dead("the entry is not kept any more".to_owned()));
        };
        let Some(mailbox) = letter.mailbox else { return Ok(End::Withdrawn) };
        // What was allowed when it was set may not be now, and the client does not look at addresses that need no name.
        if let Err(why) = place::check(&mailbox.url, self.config.allow_private_hosts) {
            return Ok(End::Dead(why.to_string()));
        }
        let now = Clock::system().now();
        let answer = self.client.post(&mailbox, &attempt.id, &attempt.recipient, &letter.message, now).await;
        Ok(match answer {
            Answer::Taken => End::Delivered,
            Answer::Gone(why) => End::Dead(why),
            Answer::Failed(why) => self.failed(attempt, why),
        })
    }

    fn failed(&self, attempt: &Attempt, why: String) -> End {
        match attempt.number >= self.config.max_attempts {
            true => End::Dead(why),
            false => End::Failed(wait(self.config.first_retry, attempt.number), why),
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
