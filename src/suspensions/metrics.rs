//! The metric of suspended DIDs.

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Register, Registry};

/// Number of suspended DIDs. Cheap to clone.
#[derive(Clone)]
pub struct SuspensionMetrics {
    dids: Gauge,
}

impl SuspensionMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self { dids: registry.gauge("suspended_dids", "Suspended DIDs that this replica knows") }
    }

    /// Records the number of suspended DIDs.
    pub(super) fn suspended(&self, dids: usize) {
        self.dids.set(dids as i64);
    }
}
