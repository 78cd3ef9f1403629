//! Buckets in memory: how much of its limit each caller or conversation has used, as far as this replica knows.
//!
//! A bucket is the generic cell rate algorithm (ITU-T I.371, annex A) with one number: the time at which all charges
//! will have drained at the limit's rate. It is written here because no library also allows looking without a charge,
//! charging for past work, and merging the charges of other replicas.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

/// Time by which charges may run ahead of the rate: a burst of this length at the full rate is accepted.
pub const BURST: Duration = Duration::from_secs(2);
/// Maximum time that a bucket may be ahead, through charges that could not be refused or that other replicas report:
/// twice a burst. It limits the wait that a client is told.
pub const MAX_AHEAD: Duration = Duration::from_secs(4);
/// Maximum time ahead for a caller, whose requests are charged for their cost afterwards: ten seconds beyond a burst.
pub const MAX_AHEAD_BY_COST: Duration = Duration::from_secs(12);
/// Maximum number of buckets of one limit. Beyond that many keys in debt, further keys are not stored and so not
/// limited.
pub const MAX_BUCKETS: usize = 131_072;

/// Number of maps that the buckets are spread over, so that threads rarely contend and sweeps are short.
const SHARDS: usize = 16;

/// Key of a bucket: a hash, so that it has a fixed size and reveals no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; 16]);

impl Key {
    /// Returns the key of a DID or a conversation id.
    pub fn of(name: &str) -> Self {
        let digest = Sha256::digest(name);
        Self(digest[..16].try_into().expect("a SHA-256 has 32 bytes"))
    }

    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Buckets of one limit. Times are nanoseconds since its creation, which last for centuries.
pub struct Buckets {
    made: Instant,
    /// Cost of one request.
    interval: u64,
    /// Maximum time ahead at which a request is accepted.
    burst: u64,
    /// Maximum time that a bucket may be ahead.
    max_ahead: u64,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    /// Time at which each key's charges will have drained. A time in the past means the same as no entry.
    drained_at: HashMap<Key, u64>,
    swept: u64,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Time at which a charge will have drained, by the buckets' clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainedAt(u64);

impl Buckets {
    /// Creates buckets for `rate` requests per second, at least 1.
    pub fn new(rate: u32) -> Self {
        Self::with_burst(Duration::from_secs(1) / rate.max(1), BURST, MAX_AHEAD)
    }

    /// Creates buckets for limits that charge some requests more than one unit.
    pub fn by_cost(rate: u32) -> Self {
        Self::with_burst(Duration::from_secs(1) / rate.max(1), BURST, MAX_AHEAD_BY_COST)
    }

    /// Creates buckets for `most` requests in a period, all of them at once if need be; `most` is at least 1.
    pub fn per(most: u32, period: Duration) -> Self {
        Self::with_burst(period / most.max(1), period, 2 * period)
    }

    fn with_burst(interval: Duration, burst: Duration, max_ahead: Duration) -> Self {
        let [interval, burst, max_ahead] = [interval, burst, max_ahead].map(nanos);
        Self { made: Instant::now(), interval, burst, max_ahead, shards: Default::default() }
    }

    /// Maximum time that a bucket may be ahead.
    pub fn max_ahead(&self) -> Duration {
        Duration::from_nanos(self.max_ahead)
    }

    /// Cost of one request, as time at the limit's rate.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// Charges one request and returns when it will have drained, or returns the time to wait and charges nothing.
    pub fn take(&self, key: Key, now: Instant) -> Result<DrainedAt, Duration> {
        self.with(key, now, |drained_at, now| match self.excess(*drained_at, now) {
            None => {
                *drained_at = now.max(*drained_at) + self.interval;
                Ok(DrainedAt(*drained_at))
            }
            Some(wait) => Err(wait),
        })
    }

    /// Returns how long to wait until one request fits; `None` if it fits now.
    pub fn wait(&self, key: Key, now: Instant) -> Option<Duration> {
        let now = self.time(now);
        let drained_at = self.shard(key).drained_at.get(&key).copied()?;
        self.excess(drained_at, now)
    }

    /// Returns how long to wait until one request fits, if more than a burst is charged already.
    pub fn debt(&self, key: Key, now: Instant) -> Option<Duration> {
        let now = self.time(now);
        let drained_at = self.shard(key).drained_at.get(&key).copied()?;
        if drained_at.saturating_sub(now) > self.burst { self.excess(drained_at, now) } else { None }
    }

    /// Returns how long to wait until at most half a burst is charged; `None` if that is so now.
    pub fn wait_for_half(&self, key: Key, now: Instant) -> Option<Duration> {
        let now = self.time(now);
        let drained_at = self.shard(key).drained_at.get(&key).copied()?;
        drained_at.saturating_sub(now).checked_sub(self.burst / 2).filter(|wait| *wait > 0).map(Duration::from_nanos)
    }

    /// Charges past work, as time at the limit's rate, even if it exceeds the limit.
    pub fn charge(&self, key: Key, cost: Duration, now: Instant) {
        self.with(key, now, |drained_at, now| {
            *drained_at = now.max(*drained_at).saturating_add(nanos(cost)).min(now + self.max_ahead);
        });
    }

    /// Refunds the part of one request's charge that has not drained.
    pub fn refund(&self, key: Key, charge: DrainedAt, now: Instant) {
        self.with(key, now, |drained_at, now| {
            let unpaid = charge.0.saturating_sub(now).min(self.interval);
            *drained_at = drained_at.saturating_sub(unpaid).max(now.min(*drained_at));
        });
    }

    /// Merges how far ahead all replicas together were at that time, if that is more than is known here.
    pub fn merge(&self, key: Key, ahead: Duration, at: Instant) {
        self.with(key, at, |drained_at, at| *drained_at = (*drained_at).max(at + nanos(ahead).min(self.max_ahead)));
    }

    fn excess(&self, drained_at: u64, now: u64) -> Option<Duration> {
        let ahead = drained_at.saturating_sub(now) + self.interval;
        ahead.checked_sub(self.burst).filter(|excess| *excess > 0).map(Duration::from_nanos)
    }

    fn time(&self, instant: Instant) -> u64 {
        nanos(instant.saturating_duration_since(self.made))
    }

    fn shard(&self, key: Key) -> MutexGuard<'_, Shard> {
        // No code panics while it holds this lock, and a map of numbers has no broken state.
        self.shards[usize::from(key.0[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a bucket. If there is no room for it, the change is dropped.
    fn with<T>(&self, key: Key, now: Instant, change: impl FnOnce(&mut u64, u64) -> T) -> T {
        let now = self.time(now);
        let mut shard = self.shard(key);
        if let Some(drained_at) = shard.drained_at.get_mut(&key) {
            return change(drained_at, now);
        }
        let mut drained_at = now;
        let result = change(&mut drained_at, now);
        if shard.has_room(now, self.burst) {
            shard.drained_at.insert(key, drained_at);
        }
        result
    }
}

impl Shard {
    /// Checks whether another bucket fits, after deleting drained ones. A sweep that found nothing is not repeated
    /// until something can have changed.
    fn has_room(&mut self, now: u64, burst: u64) -> bool {
        if self.drained_at.len() >= MAX_BUCKETS / SHARDS && now.saturating_sub(self.swept) >= burst / 2 {
            self.drained_at.retain(|_, drained_at| *drained_at > now);
            self.swept = now;
        }
        self.drained_at.len() < MAX_BUCKETS / SHARDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Counts how many requests in a row are accepted at this moment.
    fn taken(buckets: &Buckets, key: Key, now: Instant) -> usize {
        (0..).take_while(|_| buckets.take(key, now).is_ok()).count()
    }

    #[test]
    fn a_burst_gets_through_and_then_the_rate() {
        let (buckets, key, now) = (Buckets::new(100), Key::of("a"), Instant::now());
        assert_eq!(taken(&buckets, key, now), 200);
        assert_eq!(buckets.take(key, now), Err(10 * MS));
        assert_eq!(buckets.take(key, now + 4 * MS), Err(6 * MS));
        assert_eq!(taken(&buckets, key, now + 10 * MS), 1, "after the wait that was told, and not one more");
        assert_eq!(taken(&buckets, key, now + 1_010 * MS), 100);
        assert_eq!(taken(&buckets, key, now + 60_000 * MS), 200, "what was not used does not pile up");
    }

    #[test]
    fn a_number_in_a_period_is_let_through_at_once_and_then_one_by_one() {
        let minute = Duration::from_secs(60);
        let (buckets, key, now) = (Buckets::per(3, minute), Key::of("a"), Instant::now());
        assert_eq!(taken(&buckets, key, now), 3);
        assert_eq!(buckets.take(key, now), Err(minute / 3));
        assert_eq!(taken(&buckets, key, now + minute / 3), 1);
        assert_eq!(taken(&buckets, key, now + 10 * minute), 3);
    }

    #[test]
    fn the_slowest_rate_still_lets_two_through() {
        let (buckets, key, now) = (Buckets::new(1), Key::of("a"), Instant::now());
        assert_eq!(taken(&buckets, key, now), 2);
        assert_eq!(buckets.take(key, now), Err(1_000 * MS));
    }

    #[test]
    fn keys_do_not_disturb_each_other() {
        let (buckets, now) = (Buckets::new(10), Instant::now());
        assert_eq!(taken(&buckets, Key::of("a"), now), 20);
        assert_eq!(taken(&buckets, Key::of("b"), now), 20);
    }

    #[test]
    fn looking_costs_nothing_and_agrees_with_taking() {
        let (buckets, key, now) = (Buckets::new(10), Key::of("a"), Instant::now());
        for _ in 0..20 {
            assert_eq!(buckets.wait(key, now), None);
            assert_eq!(buckets.take(key, now).map(drop), Ok(()));
        }
        assert_eq!(buckets.wait(key, now), Some(100 * MS));
        assert_eq!(buckets.take(key, now), Err(100 * MS));
        assert_eq!(buckets.wait(key, now + 100 * MS), None);
    }

    #[test]
    fn past_charges_delay_later_requests_within_bounds() {
        let (buckets, key, now) = (Buckets::new(10), Key::of("a"), Instant::now());
        for _ in 0..25 {
            buckets.charge(key, buckets.interval(), now);
        }
        assert_eq!(buckets.wait(key, now), Some(600 * MS));
        for _ in 0..1_000 {
            buckets.charge(key, buckets.interval(), now);
        }
        assert_eq!(buckets.wait(key, now), Some(MAX_AHEAD - BURST + 100 * MS));
    }

    #[test]
    fn a_burst_is_no_debt_and_a_debt_ends_in_ten_seconds() {
        let (buckets, key, now) = (Buckets::by_cost(10), Key::of("a"), Instant::now());
        assert_eq!(taken(&buckets, key, now), 20);
        assert_eq!(buckets.debt(key, now), None, "those that were let through are not too many now");
        buckets.charge(key, 250 * MS, now);
        assert_eq!(buckets.debt(key, now), Some(350 * MS));
        assert_eq!(buckets.debt(key, now + 250 * MS), None);
        assert_eq!(buckets.wait_for_half(key, now), Some(1_250 * MS));
        assert_eq!(buckets.wait_for_half(key, now + 1_250 * MS), None);
        buckets.charge(key, Duration::MAX, now);
        assert_eq!(buckets.wait(key, now), Some(10_000 * MS + 100 * MS));
        assert_eq!(taken(&buckets, key, now + 10_100 * MS), 1);
    }

    #[test]
    fn usage_of_other_replicas_counts_once_and_within_bounds() {
        let (buckets, key, now) = (Buckets::new(10), Key::of("a"), Instant::now());
        assert_eq!(buckets.take(key, now).map(drop), Ok(()));
        buckets.merge(key, 1_500 * MS, now);
        assert_eq!(taken(&buckets, key, now), 5);
        buckets.merge(key, 1_500 * MS, now);
        assert_eq!(buckets.wait(key, now), Some(100 * MS), "what is known already changes nothing");
        buckets.merge(key, Duration::from_secs(1_000_000), now);
        assert_eq!(buckets.wait(key, now), Some(MAX_AHEAD - BURST + 100 * MS));
    }

    #[test]
    fn memory_is_bounded_and_freed_when_debts_are_paid() {
        let (buckets, now) = (Buckets::new(1), Instant::now());
        let kept = || -> usize { buckets.shards.iter().map(|shard| shard.lock().unwrap().drained_at.len()).sum() };
        for n in 0..2 * MAX_BUCKETS {
            assert_eq!(
                buckets.take(Key::of(&n.to_string()), now).map(drop),
                Ok(()),
                "without room no caller is limited"
            );
        }
        assert_eq!(kept(), MAX_BUCKETS);
        let later = now + 2 * BURST;
        for n in 0..SHARDS * 100 {
            buckets.take(Key::of(&format!("later {n}")), later).unwrap();
        }
        assert!(kept() <= SHARDS * 100, "{} buckets are left of those that were paid off", kept());
    }
}
