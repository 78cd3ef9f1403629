//! Time, injected. The one place that asks the operating system what time it is; tests hand in a clock that they move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};

/// Where the present comes from. Cheap to clone; clones of a manual clock move together.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    manual: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still at `start` until [`Clock::advance`] moves it.
    pub fn manual(start: DateTime<Utc>) -> Self {
        Self { manual: Some(Arc::new(AtomicI64::new(start.timestamp_micros()))) }
    }

    /// The present, in microseconds as PostgreSQL stores it.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the operating system")]
    pub fn now(&self) -> DateTime<Utc> {
        match &self.manual {
            Some(micros) => DateTime::from_timestamp_micros(micros.load(Ordering::SeqCst))
                .expect("a manual clock only holds what a DateTime gave it"),
            None => Utc::now(),
        }
    }

    /// Moves a manual clock forward. The system's clock does not obey.
    pub fn advance(&self, by: TimeDelta) {
        if let Some(micros) = &self.manual {
            micros.fetch_add(by.num_microseconds().unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}
