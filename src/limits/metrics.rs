//! Metrics of rate limits.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::{Counters, Label, Register, Registry};

use super::{Scope, Work};

/// Reason why charges were not published to other replicas.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unshared {
    /// The call to Redis failed.
    Redis,
    /// Too many charges wait to be published.
    QueueFull,
}

impl Unshared {
    fn label(self) -> &'static str {
        match self {
            Unshared::Redis => "redis",
            Unshared::QueueFull => "queue_full",
        }
    }
}

/// Metrics of all rate limits. Cheap to clone.
#[derive(Clone)]
pub struct LimitMetrics {
    limited: Counters<1>,
    charged: Family<[Label; 1], Counter<f64, AtomicU64>>,
    unshared: Counters<1>,
}

impl LimitMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let (r, charged) = (registry, Family::default());
        let help = "Cost of requests beyond one unit each, by kind of work";
        r.register("request_cost_units", help, Family::clone(&charged));
        Self {
            limited: r.counters_of(
                "rate_limited",
                "Requests refused by a rate limit, by scope",
                Scope::ALL.map(Scope::label).into_iter().chain(["external_commits"]).map(|scope| [("scope", scope)]),
            ),
            charged,
            unshared: r.counters_of(
                "rate_limit_unshared",
                "Charges not published to other replicas, by cause",
                [Unshared::Redis, Unshared::QueueFull].map(|cause| [("cause", cause.label())]),
            ),
        }
    }

    /// Counts a request that a rate limit refused.
    pub(super) fn rate_limited(&self, scope: Scope) {
        self.limited.get_or_create(&[("scope", scope.label())]).inc();
    }

    /// Counts an external commit that the database refused.
    pub(super) fn external_commit_refused(&self) {
        self.limited.get_or_create(&[("scope", "external_commits")]).inc();
    }

    /// Adds the cost of a request beyond its first unit.
    pub(super) fn charged(&self, work: Work, units: f64) {
        self.charged.get_or_create(&[("for", work.label())]).inc_by(units);
    }

    /// Counts charges that were not published to other replicas.
    pub(super) fn unshared(&self, why: Unshared, charges: usize) {
        self.unshared.get_or_create(&[("cause", why.label())]).inc_by(charges as u64);
    }
}
