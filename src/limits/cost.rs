//! What a request costs its caller beyond the one unit that it is charged when it is admitted, in units of the same limit.
//!
//! Every request may keep a connection to PostgreSQL busy for a moment and carry some bytes each way; what is beyond that is charged
//! by the time and by the byte, so that a caller gets the same share of the server by few dear requests as by many cheap ones. Time
//! counts only while PostgreSQL works for this request alone: neither the wait for a connection, for a lock or in a queue, nor a
//! transaction that it shares with others.

use std::time::Duration;

/// How long PostgreSQL may work for any request.
pub const FREE_TIME: Duration = Duration::from_millis(10);
/// The time for one unit beyond that.
pub const TIME_UNIT: Duration = Duration::from_millis(5);
/// How many bytes any request and any reply may have.
pub const FREE_BYTES: usize = 64 * 1024;
/// The bytes for one unit beyond that.
pub const BYTES_UNIT: usize = 128 * 1024;

/// What was done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// PostgreSQL worked for it alone.
    Database(Duration),
    /// A body came, or a reply goes.
    Bytes(usize),
}

impl Work {
    /// The units that it costs.
    pub(super) fn units(self) -> f64 {
        match self {
            Self::Database(time) => time.saturating_sub(FREE_TIME).as_secs_f64() / TIME_UNIT.as_secs_f64(),
            Self::Bytes(bytes) => bytes.saturating_sub(FREE_BYTES) as f64 / BYTES_UNIT as f64,
        }
    }

    /// The label in the metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Database(_) => "database",
            Self::Bytes(_) => "bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cheap_costs_nothing_more_and_what_is_dear_costs_in_proportion() {
        assert_eq!(Work::Database(FREE_TIME).units(), 0.0);
        assert_eq!(Work::Database(FREE_TIME + 40 * TIME_UNIT).units(), 40.0);
        assert_eq!(Work::Bytes(FREE_BYTES).units(), 0.0);
        assert_eq!(Work::Bytes(FREE_BYTES + 3 * BYTES_UNIT / 2).units(), 1.5);
    }
}
