//! Metrics of the event tail, of notifications between replicas, and of streams.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::error::{Code, ErrorMetrics};
use crate::metrics::{Buckets, Counters, Register, Registry};

use super::notifier::Transport;

/// Metrics of events. Cheap to clone.
#[derive(Clone)]
pub struct EventMetrics {
    streams_open: Gauge,
    streams_ended: Counters<1>,
    delivered: Counters<1>,
    notifications: Counters<2>,
    tail_passes: Counter,
    tail_oldest: Gauge,
    tail_lag_seconds: Histogram,
    errors: ErrorMetrics,
}

impl EventMetrics {
    pub fn register(registry: &mut Registry, errors: ErrorMetrics) -> Self {
        let r = registry;
        Self {
            streams_open: r.gauge("event_streams_open", "Open event streams"),
            streams_ended: r.counters("event_streams_ended", "Event streams that the server closed, by reason"),
            delivered: r.counters("events_delivered", "Events handed to connections, by type"),
            notifications: r.counters("event_hints", "Notifications to other replicas, by transport and outcome"),
            tail_passes: r.counter("event_tail_passes", "Passes of the event tail"),
            tail_oldest: r.gauge(
                "event_tail_oldest_transaction",
                "Age of the oldest running transaction that writes, anywhere in the cluster, in transactions",
            ),
            tail_lag_seconds: r.seconds(
                "event_tail_lag",
                "Time from the beginning of a transaction until the event tail read its rows",
                Buckets::FINE,
            ),
            errors,
        }
    }

    /// Records the number of open streams.
    pub fn streams_open(&self, open: usize) {
        self.streams_open.set(open as i64);
    }

    /// Counts a stream that the server closed.
    pub fn stream_ended(&self, reason: &'static str) {
        self.streams_ended.get_or_create(&[("reason", reason)]).inc();
    }

    /// Counts an event that was handed to a connection.
    pub fn event_delivered(&self, event_type: &'static str) {
        self.delivered.get_or_create(&[("type", event_type)]).inc();
    }

    /// Counts a notification to other replicas.
    pub fn notification(&self, transport: Transport, sent: bool) {
        let outcome = if sent { "sent" } else { "lost" };
        self.notifications.get_or_create(&[("transport", transport.name()), ("outcome", outcome)]).inc();
    }

    /// Counts a pass of the event tail, with the age of the oldest running transaction in transactions.
    pub fn tail_passed(&self, oldest: i64) {
        self.tail_passes.inc();
        self.tail_oldest.set(oldest);
    }

    /// Records the time from a transaction's beginning until the event tail read one of its rows.
    pub fn tail_lagged(&self, lag: Duration) {
        self.tail_lag_seconds.observe(lag.as_secs_f64());
    }

    /// Counts a refused request.
    pub fn error(&self, code: Code) {
        self.errors.error(code);
    }
}
