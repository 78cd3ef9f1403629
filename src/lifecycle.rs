//! Lifecycle of a server: starting, serving, draining.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Phase in the life of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Lifecycle {
    /// The schema is not up to date yet; requests are refused.
    Starting = 0,
    /// Requests are answered.
    Serving = 1,
    /// Running requests are finished; load balancers should send no more.
    Draining = 2,
}

impl Lifecycle {
    /// Name on `/health/ready`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

/// The current phase, shared by all clones.
#[derive(Debug, Clone, Default)]
pub struct Current(Arc<AtomicU8>);

impl Current {
    pub fn get(&self) -> Lifecycle {
        match self.0.load(Ordering::Acquire) {
            0 => Lifecycle::Starting,
            1 => Lifecycle::Serving,
            _ => Lifecycle::Draining,
        }
    }

    /// Advances to a later phase, never back. Returns true if the phase changed.
    pub fn advance(&self, to: Lifecycle) -> bool {
        self.0.fetch_max(to as u8, Ordering::AcqRel) < to as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phase_never_goes_back() {
        let current = Current::default();
        assert_eq!(current.get(), Lifecycle::Starting);
        assert!(current.advance(Lifecycle::Draining));
        assert!(!current.advance(Lifecycle::Serving));
        assert_eq!(current.get().name(), "draining");
    }
}
