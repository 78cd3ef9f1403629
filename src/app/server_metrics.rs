//! Metrics of the server as a whole: its build, its start, its readiness, its tasks and the memory that it may use.

use chrono::{DateTime, Utc};
use prometheus_client::metrics::gauge::Gauge;

use crate::background::tasks;
use crate::metrics::{Gauges, Register, Registry};

/// Metrics of one server. Cheap to clone.
#[derive(Clone)]
pub struct ServerMetrics {
    info: Gauges<3>,
    start: Gauge,
    readiness: Gauges<1>,
    ended_tasks: Gauges<1>,
    memory_limit: Gauge,
}

impl ServerMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            info: r.gauges("server_info", "1, with the version, the serializer, and how event notifications arrive"),
            start: r.gauge("process_start_time_seconds", "Time at which the server started"),
            readiness: r.gauges("readiness_check", "1 if this part lets the server be ready, as on /health/ready"),
            ended_tasks: r.gauges("background_task_ended", "1 if this long-lived task has ended before the server"),
            memory_limit: r.gauge(
                "process_memory_limit_bytes",
                "Memory that the process may use: the lowest limit of its cgroups, or the memory of the machine",
            ),
        }
    }

    /// Records the build, its serializer, the transport of its notifications, and the time of its start.
    pub(super) fn started(&self, serializer: &'static str, notifications: &'static str, at: DateTime<Utc>) {
        let labels =
            [("version", env!("CARGO_PKG_VERSION")), ("serializer", serializer), ("notifications", notifications)];
        self.info.get_or_create(&labels).set(1);
        self.start.set(at.timestamp());
    }

    /// Records which parts let the server be ready.
    pub fn readiness(&self, checks: &[(&'static str, bool)]) {
        for (check, passed) in checks {
            self.readiness.get_or_create(&[("check", check)]).set(i64::from(*passed));
        }
    }

    /// Records which tasks have ended.
    pub fn tasks(&self, ended: &[&'static str]) {
        for task in tasks::ALL {
            self.ended_tasks.get_or_create(&[("task", task.name)]).set(i64::from(ended.contains(&task.name)));
        }
    }

    /// Records the memory that the process may use.
    pub fn memory_limit(&self, bytes: u64) {
        self.memory_limit.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
