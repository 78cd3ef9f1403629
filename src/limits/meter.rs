//! Charges for the bytes of a body or of a reply, and the pace of those that pass slowly.

use super::buckets::Key;
use super::{RateLimits, Work, cost};

/// Meter of the bytes of one body or reply. What is not charged by then is charged when it is dropped.
pub struct Meter {
    limits: RateLimits,
    /// The caller's bucket; `None` if nothing is charged.
    key: Option<Key>,
    passed: usize,
    charged: usize,
    paced: bool,
}

impl Meter {
    pub(super) fn new(limits: RateLimits, key: Option<Key>) -> Self {
        Self { limits, key, passed: 0, charged: 0, paced: false }
    }

    /// Charges the bytes from now on as they pass, and makes them wait.
    pub(super) fn pace(&mut self) {
        self.paced = true;
    }

    /// Charges nothing that has not been charged yet.
    pub(super) fn forget(&mut self) {
        self.key = None;
    }

    /// Records the bytes that have passed so far. If they are paced, waits until half of a burst is left: they pass no faster than their
    /// caller's rate, and leave capacity for its other requests.
    pub async fn passed(&mut self, bytes: usize) {
        self.passed = bytes;
        if self.paced {
            if self.passed - self.charged >= cost::BYTES_UNIT {
                self.charge();
            }
            if let Some(key) = self.key {
                self.limits.wait_for_capacity(key).await;
            }
        }
    }

    fn charge(&mut self) {
        if let Some(key) = self.key {
            let units = Work::Bytes(self.passed).units() - Work::Bytes(self.charged).units();
            self.limits.charge_units(key, Work::Bytes(self.passed), units);
            self.charged = self.passed;
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.charge();
    }
}
