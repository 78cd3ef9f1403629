//! Global limit on work that strangers can cause: a rate with a burst, shared by all of them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The generic cell rate algorithm (ITU-T I.371, annex A) for one cell.
pub struct Budget {
    interval: Duration,
    burst: Duration,
    /// Time at which the budget is full again.
    full_at: Mutex<Instant>,
}

impl Budget {
    /// Allows `rate` operations per second and `burst` of them at once.
    pub fn new(rate: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / rate.max(1), burst, Instant::now())
    }

    /// Allows one operation per interval and `burst` of them at once, starting full at `now`.
    pub fn every(interval: Duration, burst: u32, now: Instant) -> Self {
        Self { interval, burst: interval * burst.max(1), full_at: Mutex::new(now) }
    }

    /// Takes one operation, or returns the time to wait and takes nothing.
    pub fn take(&self, now: Instant) -> Result<(), Duration> {
        // No code panics while it holds this lock.
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = now.max(*full_at) + self.interval;
        match next.saturating_duration_since(now).checked_sub(self.burst).filter(|excess| !excess.is_zero()) {
            Some(excess) => Err(excess),
            None => {
                *full_at = next;
                Ok(())
            }
        }
    }

    /// Returns an operation that was taken and not used.
    pub fn give_back(&self) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        *full_at = full_at.checked_sub(self.interval).unwrap_or(*full_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_given_and_then_the_rate() {
        let (budget, now) = (Budget::new(10, 3), Instant::now());
        let taken = |at: Instant| (0..100).take_while(|_| budget.take(at).is_ok()).count();
        assert_eq!(taken(now), 3);
        assert_eq!(budget.take(now), Err(Duration::from_millis(100)));
        assert_eq!(taken(now + Duration::from_millis(200)), 2);
        assert_eq!(taken(now + Duration::from_secs(60)), 3, "what was not used does not pile up");
        budget.give_back();
        assert_eq!(taken(now + Duration::from_secs(60)), 1);
    }
}
