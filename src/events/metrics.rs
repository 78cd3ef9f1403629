//! Metrics of the event tail, of notifications between replicas, and of streams.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::error::{Code, ErrorMetrics};
use crate::metrics::{Buckets, Counters, Register, Registry, register};

use super::event::Info;
use super::notifier::Transport;

/// Metrics of events. Cheap to clone.
#[derive(Clone)]
pub struct EventMetrics {
    streams_open: Gauge,
    max_streams: Gauge,
    buffer_bytes: Gauge,
    streams_ended: Counters<1>,
    delivered: Counters<1>,
    notifications: Counters<2>,
    tail_passes: Counter,
    tail_oldest: Gauge,
    tail_lag_seconds: Histogram,
    tail_age_seconds: Gauge<f64, AtomicU64>,
    errors: ErrorMetrics,
}

impl EventMetrics {
    pub fn register(registry: &mut Registry, errors: ErrorMetrics) -> Self {
        let r = registry;
        Self {
            streams_open: r.gauge("event_streams_open", "Open event streams"),
            max_streams: r.gauge("event_streams_max", "Event streams that this replica accepts"),
            buffer_bytes: r.gauge("event_buffer_bytes", "Bytes of the events that wait for clients, each counted once"),
            streams_ended: r.counters_of(
                "event_streams_ended",
                "Event streams that the server closed, by reason",
                Info::ENDS.map(|info| [("reason", info.name())]),
            ),
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
            tail_age_seconds: register(
                r,
                "event_tail_age_seconds",
                "Time since the event tail of this replica last read to the present",
            ),
            errors,
        }
    }

    /// Records the number of streams that this replica accepts.
    pub fn max_streams(&self, max: usize) {
        self.max_streams.set(max as i64);
    }

    /// Records the bytes that wait for clients, and the time since the tail has read to the present.
    pub fn state(&self, waiting: usize, tail_age: Duration) {
        self.buffer_bytes.set(waiting as i64);
        self.tail_age_seconds.set(tail_age.as_secs_f64());
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
