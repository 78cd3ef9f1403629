//! Cost of a request beyond the one unit that its admission charges, in units of the same limit.
//!
//! Every request may use PostgreSQL for a moment and carry some bytes each way. Beyond that, time and bytes are
//! charged, so that a caller gets the same share of the server with few expensive requests as with many cheap ones.
//! Time counts only while PostgreSQL works for this request alone; waiting for a connection, a lock or a queue does not
//! count, nor does a batch that other requests share.

use std::time::Duration;

/// Time that PostgreSQL may work for any request without charge.
pub const FREE_TIME: Duration = Duration::from_millis(10);
/// Time of one unit beyond that.
pub const TIME_UNIT: Duration = Duration::from_millis(5);
/// Bytes that any request and any reply may have without charge.
pub const FREE_BYTES: usize = 64 * 1024;
/// Bytes of one unit beyond that.
pub const BYTES_UNIT: usize = 128 * 1024;

/// Work that was done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Time that PostgreSQL worked for it alone.
    Database(Duration),
    /// Bytes of its body or of its reply.
    Bytes(usize),
    /// Number of requests that it stands for, itself included.
    Requests(usize),
}

impl Work {
    /// Returns the units that it costs.
    pub(super) fn units(self) -> f64 {
        match self {
            Self::Database(time) => time.saturating_sub(FREE_TIME).as_secs_f64() / TIME_UNIT.as_secs_f64(),
            Self::Bytes(bytes) => bytes.saturating_sub(FREE_BYTES) as f64 / BYTES_UNIT as f64,
            Self::Requests(requests) => requests.saturating_sub(1) as f64,
        }
    }

    /// Label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Bytes(_) => "bytes",
            Self::Requests(_) => "requests",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_work_costs_nothing_extra_and_expensive_work_costs_in_proportion() {
        assert_eq!(Work::Database(FREE_TIME).units(), 0.0);
        assert_eq!(Work::Database(FREE_TIME + 40 * TIME_UNIT).units(), 40.0);
        assert_eq!(Work::Bytes(FREE_BYTES).units(), 0.0);
        assert_eq!(Work::Bytes(FREE_BYTES + 3 * BYTES_UNIT / 2).units(), 1.5);
        assert_eq!([0, 1, 100].map(|requests| Work::Requests(requests).units()), [0.0, 0.0, 99.0]);
    }
}
