//! Metrics of sweeps and of other background work.

use std::time::Duration;

use chrono::{DateTime, Utc};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Unit;

use crate::metrics::{Buckets, Counters, Gauges, Histograms, Register, Registry};

/// Metrics of all jobs. Cheap to clone.
#[derive(Clone)]
pub struct JobMetrics {
    deleted: Counters<1>,
    sweep_seconds: Histograms<1>,
    last_finished: Gauges<1>,
    age: Gauges<1>,
    set_aside: Gauges<1>,
    wedged_convos: Gauge,
}

impl JobMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let (r, age) = (registry, Gauges::default());
        let help = "Time since background work was last up to date, on any replica, by kind";
        r.register_with_unit("background_age", help, Unit::Seconds, Gauges::clone(&age));
        Self {
            deleted: r.counters("sweep_deleted_rows", "Rows deleted because of their age, by job"),
            sweep_seconds: r.seconds_by("sweep_duration", "Time of a sweep, pauses included, by job", Buckets::COARSE),
            last_finished: r.gauges(
                "sweep_last_finished_timestamp_seconds",
                "Time at which this replica last finished a sweep, by job",
            ),
            age,
            set_aside: r.gauges("background_set_aside", "Items that background work skips because they fail, by kind"),
            wedged_convos: r
                .gauge("conversations_wedged", "Conversations in which a quorum of members cannot apply commits"),
        }
    }

    /// Counts rows that a sweep has deleted.
    pub(super) fn swept(&self, job: &'static str, rows: i64) {
        self.deleted.get_or_create(&[("job", job)]).inc_by(rows.cast_unsigned());
    }

    /// Records a finished sweep.
    pub(super) fn sweep_finished(&self, job: &'static str, at: DateTime<Utc>, took: Duration) {
        self.last_finished.get_or_create(&[("job", job)]).set(at.timestamp());
        self.sweep_seconds.get_or_create(&[("job", job)]).observe(took.as_secs_f64());
    }

    /// Records the time since background work was up to date, and the number of items that it skips.
    pub(super) fn background_state(&self, work: &'static str, age: Duration, aside: i64) {
        self.age.get_or_create(&[("work", work)]).set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        self.set_aside.get_or_create(&[("work", work)]).set(aside);
    }

    /// Records the number of wedged conversations.
    pub(super) fn wedged_convos(&self, wedged: i64) {
        self.wedged_convos.set(wedged);
    }
}
