//! The metrics of all components, in one registry.

use crate::actors::ActorMetrics;
use crate::advisory::QueueMetrics;
use crate::auth::AuthMetrics;
use crate::commands::CommandMetrics;
use crate::connection::ConnectionMetrics;
use crate::delivery::DeliveryMetrics;
use crate::error::ErrorMetrics;
use crate::events::EventMetrics;
use crate::jobs::JobMetrics;
use crate::limits::LimitMetrics;
use crate::memory::MemoryMetrics;
use crate::metrics::{Page, Registry};
use crate::objects::ObjectMetrics;
use crate::quotas::QuotaMetrics;
use crate::redis::RedisMetrics;
use crate::store::StoreMetrics;
use crate::suspensions::SuspensionMetrics;
use crate::timing::RequestMetrics;
use crate::trace::TraceMetrics;

use super::server_metrics::ServerMetrics;

/// The metrics of a server. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct Metrics {
    pub actors: ActorMetrics,
    pub auth: AuthMetrics,
    pub commands: CommandMetrics,
    pub connections: ConnectionMetrics,
    pub delivery: DeliveryMetrics,
    pub errors: ErrorMetrics,
    pub events: EventMetrics,
    pub jobs: JobMetrics,
    pub limits: LimitMetrics,
    pub memory: MemoryMetrics,
    pub objects: ObjectMetrics,
    pub queues: QueueMetrics,
    pub quotas: QuotaMetrics,
    pub redis: RedisMetrics,
    pub requests: RequestMetrics,
    pub server: ServerMetrics,
    pub store: StoreMetrics,
    pub suspensions: SuspensionMetrics,
    pub traces: TraceMetrics,
    /// The page that shows them.
    pub page: Page,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let errors = ErrorMetrics::register(r);
        Self {
            actors: ActorMetrics::register(r),
            auth: AuthMetrics::register(r),
            commands: CommandMetrics::register(r),
            connections: ConnectionMetrics::register(r, errors.clone()),
            delivery: DeliveryMetrics::register(r),
            events: EventMetrics::register(r, errors.clone()),
            errors,
            jobs: JobMetrics::register(r),
            limits: LimitMetrics::register(r),
            memory: MemoryMetrics::register(r),
            objects: ObjectMetrics::register(r),
            queues: QueueMetrics::register(r),
            quotas: QuotaMetrics::register(r),
            redis: RedisMetrics::register(r),
            requests: RequestMetrics::register(r),
            server: ServerMetrics::register(r),
            store: StoreMetrics::register(r),
            suspensions: SuspensionMetrics::register(r),
            traces: TraceMetrics::register(r),
            page: Page::new(registry),
        }
    }
}
