//! Metrics of quotas.

use crate::metrics::{Counters, Register, Registry};

use super::Quota;

/// Metrics of all quotas. Cheap to clone.
#[derive(Clone)]
pub struct QuotaMetrics {
    exceeded: Counters<1>,
    settlements: Counters<1>,
}

impl QuotaMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        let series = Quota::ALL.map(|quota| [("quota", quota.label())]);
        Self {
            exceeded: r.counters_of("quota_exceeded", "Requests refused by a quota, by quota", series),
            settlements: r.counters("quota_settlements", "Exchanges of quota usage with other replicas, by outcome"),
        }
    }

    /// Counts a request that a quota refused.
    pub(super) fn exceeded(&self, quota: Quota) {
        self.exceeded.get_or_create(&[("quota", quota.label())]).inc();
    }

    /// Counts an exchange of usage with other replicas.
    pub(super) fn settled(&self, done: bool) {
        let outcome = if done { "done" } else { "failed" };
        self.settlements.get_or_create(&[("outcome", outcome)]).inc();
    }
}
