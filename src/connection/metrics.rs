//! Metrics of HTTP connections.

use prometheus_client::metrics::gauge::Gauge;

use crate::error::{Code, ErrorMetrics};
use crate::metrics::{Counters, Register, Registry};

use super::Ended;

/// Metrics of all HTTP connections. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionMetrics {
    open: Gauge,
    max: Gauge,
    ended: Counters<1>,
    errors: ErrorMetrics,
}

impl ConnectionMetrics {
    pub fn register(registry: &mut Registry, errors: ErrorMetrics) -> Self {
        let r = registry;
        Self {
            open: r.gauge("http_connections_open", "Open HTTP connections"),
            max: r.gauge("http_connections_max", "HTTP connections that this replica accepts at once"),
            ended: r.counters_of(
                "http_connections_ended",
                "HTTP connections that the server closed because of its client, by reason",
                Ended::ALL.map(|why| [("reason", why.label())]),
            ),
            errors,
        }
    }

    /// Records the number of connections that are accepted at once.
    pub fn max(&self, max: usize) {
        self.max.set(max as i64);
    }

    /// Counts an accepted connection.
    pub(super) fn opened(&self) {
        self.open.inc();
    }

    /// Counts a connection that is closed, by either side.
    pub(super) fn closed(&self) {
        self.open.dec();
    }

    /// Counts a connection that the server closes because of its client.
    pub(super) fn ended(&self, why: Ended) {
        self.ended.get_or_create(&[("reason", why.label())]).inc();
    }

    /// Counts a refused request.
    pub(super) fn error(&self, code: Code) {
        self.errors.error(code);
    }
}
