//! Metrics of envelopes, delivery attempts and challenges.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::metrics::{Buckets, Counters, Register, Registry, register};

/// Metrics of delivery to mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct DeliveryMetrics {
    waiting: Gauge,
    dead: Gauge,
    hosts_resting: Gauge,
    overdue_seconds: Gauge<f64, AtomicU64>,
    fan_out_seconds: Gauge<f64, AtomicU64>,
    expanded: Counter,
    attempts: Counters<1>,
    challenges: Counters<1>,
    suspensions: Counter,
    attempt_seconds: Histogram,
}

impl DeliveryMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            waiting: r.gauge("mailbox_backlog", "Envelopes that wait for delivery"),
            dead: r.gauge("mailbox_dead", "Envelopes that are no longer retried"),
            hosts_resting: r
                .gauge("mailbox_hosts_resting", "Mailbox hosts that this replica skips for a while because they fail"),
            overdue_seconds: register(
                r,
                "mailbox_overdue_seconds",
                "Time for which the most overdue envelope has waited for this replica or another one to attempt it",
            ),
            fan_out_seconds: register(
                r,
                "mailbox_fan_out_lag_seconds",
                "Time since this replica last found every entry expanded into envelopes",
            ),
            expanded: r.counter("mailbox_envelopes", "Envelopes made from the log"),
            attempts: r.counters_of(
                "mailbox_attempts",
                "Delivery attempts, by outcome",
                ["delivered", "failed", "early", "dead", "withdrawn"].map(|outcome| [("outcome", outcome)]),
            ),
            challenges: r.counters("mailbox_challenges", "Challenges sent to mailboxes, by outcome"),
            suspensions: r.counter("mailbox_suspensions", "Mailboxes suspended because they failed for a long time"),
            attempt_seconds: r.seconds("mailbox_attempt_duration", "Time of a delivery attempt", Buckets::COARSE),
        }
    }

    /// Records how long the most overdue envelope has waited for an attempt.
    pub(super) fn overdue(&self, time: Duration) {
        self.overdue_seconds.set(time.as_secs_f64());
    }

    /// Records the time since every entry was expanded.
    pub(super) fn fan_out_lagged(&self, time: Duration) {
        self.fan_out_seconds.set(time.as_secs_f64());
    }

    /// Records the envelopes that wait, the dead ones, and the hosts that rest.
    pub(super) fn backlog(&self, waiting: i64, dead: i64, resting: usize) {
        self.waiting.set(waiting);
        self.dead.set(dead);
        self.hosts_resting.set(resting as i64);
    }

    /// Counts envelopes made from the log.
    pub(super) fn expanded(&self, envelopes: i64) {
        self.expanded.inc_by(envelopes.cast_unsigned());
    }

    /// Records one delivery attempt.
    pub(super) fn attempt(&self, outcome: &'static str, took: Duration) {
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
        self.attempt_seconds.observe(took.as_secs_f64());
    }

    /// Counts one challenge.
    pub(super) fn challenge(&self, outcome: &'static str) {
        self.challenges.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a mailbox that was suspended.
    pub(super) fn suspended(&self) {
        self.suspensions.inc();
    }
}
