//! Injected time. This is the only place that reads the operating system's clock; tests pass a clock that they advance.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// Maximum difference between the server's clock and that of the signer of a token or key package, in seconds.
pub const LEEWAY_SECONDS: i64 = 10;

/// Source of the current time. Cheap to clone; clones of a manual clock advance together.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<Manual>>,
}

#[derive(Debug)]
struct Manual {
    started: Instant,
    /// In microseconds since 1970.
    start: i64,
    now: AtomicI64,
}

impl Clock {
    /// Returns the operating system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: DateTime<Utc>) -> Self {
        let start = start.timestamp_micros();
        Self { manual: Some(Arc::new(Manual { started: Instant::now(), start, now: AtomicI64::new(start) })) }
    }

    /// Returns the current time, in microseconds as PostgreSQL stores it.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the operating system")]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.manual {
            Some(manual) => DateTime::from_timestamp_micros(manual.now.load(Ordering::SeqCst))
                .expect("a manual clock only holds what a DateTime gave it"),
            None => Utc::now(),
        }
    }

    /// Returns the current time for measuring durations, which setting the system's clock does not change.
    pub fn instant(&self) -> Instant {
        match &self.manual {
            Some(manual) => {
                let passed = manual.now.load(Ordering::SeqCst) - manual.start;
                manual.started + Duration::from_micros(passed.unsigned_abs())
            }
            None => Instant::now(),
        }
    }

    /// Moves a manual clock forward. The system's clock does not obey.
    pub fn advance(&self, by: TimeDelta) {
        if let Some(manual) = &self.manual {
            manual.now.fetch_add(by.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// Returns a random fraction of one, for pauses that must differ between tasks and replicas.
pub fn jitter() -> f64 {
    (ulid::Ulid::new().random() % 1_000) as f64 / 1_000.0
}
