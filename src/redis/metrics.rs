//! The metric of the connection to Redis.

use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::{Register, Registry};

/// State of Redis. Cheap to clone.
#[derive(Clone)]
pub struct RedisMetrics {
    up: Gauge,
}

impl RedisMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let help = "1 if Redis answered the last call; 0 if it did not, or if there is no Redis";
        Self { up: registry.gauge("redis_up", help) }
    }

    /// Records whether Redis has answered a call.
    pub fn redis_answers(&self, answers: bool) {
        self.up.set(i64::from(answers));
    }
}
