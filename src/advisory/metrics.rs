//! Metrics of the queues in front of the conversations' locks.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Buckets, Register, Registry};

/// Metrics of the queues. Cheap to clone.
#[derive(Clone)]
pub struct QueueMetrics {
    full: Counter,
    wait_seconds: Histogram,
}

impl QueueMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            full: r.counter("queue_full", "Requests refused because a queue was full"),
            wait_seconds: r.seconds("queue_wait", "Time of a request in a queue", Buckets::COARSE),
        }
    }

    /// Counts a request that was refused because a queue was full.
    pub fn queue_full(&self) {
        self.full.inc();
    }

    /// Records a request that left its queue.
    pub fn queued(&self, took: Duration) {
        self.wait_seconds.observe(took.as_secs_f64());
    }
}
