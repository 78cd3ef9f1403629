//! Metrics of rate limits.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::{Counters, Gauges, Label, Register, Registry};

use super::{Scope, Transfer, Work};

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
    transfers: Gauges<1>,
    transfers_refused: Counters<2>,
    downloads_cut: Counter,
}

impl LimitMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let (r, charged) = (registry, Family::default());
        let help = "Cost of requests beyond one unit each, by kind of work";
        r.register("request_cost_units", help, Family::clone(&charged));
        let transfers: Gauges<1> = r.gauges("transfers_open", "Uploads and downloads in progress, by kind");
        let refused = |kind: Transfer| ["caller", "all"].map(|share| [("kind", kind.label()), ("share", share)]);
        for kind in Transfer::ALL {
            transfers.get_or_create(&[("kind", kind.label())]).set(0);
        }
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
            transfers,
            transfers_refused: r.counters_of(
                "transfers_refused",
                "Uploads and downloads refused because too many are in progress, by kind and by whose share is full",
                Transfer::ALL.into_iter().flat_map(refused),
            ),
            downloads_cut: r.counter(
                "downloads_cut",
                "Downloads that ended before their last byte because the object storage failed",
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

    /// Records the number of transfers of a kind in progress.
    pub(super) fn transfers(&self, kind: Transfer, open: usize) {
        self.transfers.get_or_create(&[("kind", kind.label())]).set(open as i64);
    }

    /// Counts a transfer that was refused because this share is full.
    pub(super) fn transfer_refused(&self, kind: Transfer, share: &'static str) {
        self.transfers_refused.get_or_create(&[("kind", kind.label()), ("share", share)]).inc();
    }

    /// Counts a download that the object storage cut.
    pub fn download_cut(&self) {
        self.downloads_cut.inc();
    }
}
