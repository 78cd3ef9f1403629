//! Metrics of traces: the spans that were exported, and those that were lost.

use prometheus_client::metrics::counter::Counter;

use crate::metrics::{Counters, Register, Registry};

/// Reason for which spans were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Too many requests waited to be exported.
    QueueFull,
    /// The collector did not take them.
    NotTaken,
}

impl Loss {
    const ALL: [Loss; 2] = [Loss::QueueFull, Loss::NotTaken];

    fn label(self) -> &'static str {
        match self {
            Loss::QueueFull => "queue_full",
            Loss::NotTaken => "not_taken",
        }
    }
}

/// Metrics of the traces of one server. Cheap to clone.
#[derive(Clone)]
pub struct TraceMetrics {
    exported: Counter,
    lost: Counters<1>,
}

impl TraceMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            exported: r.counter("trace_spans_exported", "Spans that the collector of traces took"),
            lost: r.counters_of(
                "trace_spans_lost",
                "Spans that never reached the collector of traces, by reason",
                Loss::ALL.map(|loss| [("reason", loss.label())]),
            ),
        }
    }

    pub(super) fn exported(&self, spans: usize) {
        self.exported.inc_by(spans as u64);
    }

    pub(super) fn lost(&self, why: Loss, spans: usize) {
        self.lost.get_or_create(&[("reason", why.label())]).inc_by(spans as u64);
    }
}
