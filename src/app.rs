//! Composition root: builds every component from the configuration. No other module chooses a serializer.

mod metrics;
mod server_metrics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::runtime::Handle;

use ulid::Ulid;

use crate::actors::{Limits, Registry};
use crate::advisory::Advisory;
use crate::auth::{Authenticator, Replay, replay};
use crate::background::{Background, tasks};
use crate::bodies::Bodies;
use crate::clock::Clock;
use crate::config::Config;
use crate::connection;
use crate::delivery::Delivery;
use crate::error::{Code, Error};
use crate::events::{EventConfig, Events};
use crate::ids::FromUlid;
use crate::jobs;
use crate::lifecycle::{self, Lifecycle};
use crate::limits::RateLimits;
use crate::memory::{BodyMemory, LargeWork, ReplyMemory};
use crate::objects::{self, Objects};
use crate::probe::Probe;
use crate::quotas::Quotas;
use crate::redis::Redis;
use crate::replicas::Register;
use crate::serializer::Serializer;
use crate::store::read_positions::ReadPositions;
use crate::store::{Store, StoreConfig, StoreError};
use crate::suspensions::Suspensions;
use crate::trace::{TraceError, Traces};

pub use metrics::Metrics;

/// Components of a server, given to every request handler. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub store: Store,
    pub read_positions: ReadPositions,
    pub serializer: Serializer,
    pub authenticator: Arc<Authenticator>,
    pub limits: RateLimits,
    pub quotas: Quotas,
    pub events: Events,
    pub suspensions: Suspensions,
    pub traces: Traces,
    pub delivery: Delivery,
    pub objects: Objects,
    pub bodies: Bodies,
    pub metrics: Metrics,
    pub body_memory: BodyMemory,
    pub reply_memory: ReplyMemory,
    pub large_work: LargeWork,
    pub probe: Probe,
    pub background: Background,
    lifecycle: lifecycle::Current,
}

/// Errors of [`App::new`].
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Auth(#[from] crate::auth::AuthError),
    #[error("Redis cannot be used: {0}")]
    Redis(#[from] crate::redis::Error),
    #[error(transparent)]
    Objects(#[from] objects::OpenError),
    #[error(transparent)]
    Trace(#[from] TraceError),
}

impl App {
    /// Builds the components, and starts the tasks that need no schema. Opens no connection to PostgreSQL yet. Must be
    /// called inside the multi-threaded runtime that does the work behind the requests.
    pub async fn new(config: Config, database: tokio_postgres::Config, clock: Clock) -> Result<Self, AppError> {
        let metrics = Metrics::default();
        let store_config = StoreConfig {
            database: database.clone(),
            max_connections: config.database_max_connections,
            pooler: config.database_pooler,
        };
        let (background, runtime) = (Background::new(), Handle::current());
        let traces = Traces::new(config.traces.as_ref(), clock.clone(), metrics.traces.clone(), &background)?;
        let store = Store::new(store_config, metrics.store.clone())?;
        let objects = Objects::open(&config.blob_store, metrics.objects.clone())?;
        let read_positions = ReadPositions::new(store.clone());
        background.start(&tasks::READ_POSITIONS, read_positions.clone().write_all());
        background.start(&tasks::TABLE_STATISTICS, store.keep_statistics());
        let redis = config.redis_url.as_deref();
        let redis = redis.map(|url| Redis::connect(url, replay::PURPOSE, metrics.redis.clone())).transpose()?;
        let limits = RateLimits::new(config.rates, redis.as_ref(), metrics.limits.clone(), &background);
        let quotas = Quotas::new(config.quotas, store.clone(), metrics.quotas.clone());
        let event_config = EventConfig {
            database,
            pooler: config.database_pooler,
            max_connections: config.database_max_connections,
            buffer: config.sse_buffer,
            http_connections: connection::max_connections(&config),
            keepalive: config.keepalive,
            runtime: runtime.clone(),
        };
        let events = Events::new(&store, redis.as_ref(), event_config, metrics.events.clone(), &background);
        let serializer = if config.actors {
            let registry = Registry::new(
                store.clone(),
                metrics.actors.clone(),
                Limits::with_idle(config.actor_idle),
                runtime.clone(),
            );
            Serializer::actors(registry, store.clone(), limits.clone(), metrics.commands.clone(), &background)
        } else {
            let connections = config.database_max_connections;
            let advisory = Advisory::new(&store, metrics.queues.clone(), connections, &background);
            Serializer::advisory(advisory, store.clone(), limits.clone(), metrics.commands.clone(), &background)
        };
        let serializer_name = if config.actors { "actors" } else { "advisory" };
        metrics.server.started(serializer_name, events.notifier().transport().name(), clock.now());
        let replay = Replay::with(redis, store.clone(), &background);
        let authenticator = Arc::new(Authenticator::new(
            config.auth.clone(),
            clock.clone(),
            replay,
            &store,
            metrics.auth.clone(),
            &background,
        )?);
        let suspensions = Suspensions::new(store.clone(), events.clone(), metrics.suspensions.clone());
        let bodies = Bodies::new(objects.clone(), runtime.clone());
        let delivery =
            Delivery::new(store.clone(), bodies.clone(), config.mailboxes, metrics.delivery.clone(), clock.clone());
        let large_work = LargeWork::new(&runtime);
        let probe = Probe::new(store.clone(), clock.clone(), runtime);
        Ok(Self {
            config: Arc::new(config),
            clock,
            store,
            read_positions,
            serializer,
            authenticator,
            limits,
            quotas,
            events,
            suspensions,
            traces,
            delivery,
            objects,
            bodies,
            body_memory: BodyMemory::new(metrics.memory.clone()),
            reply_memory: ReplyMemory::new(metrics.memory.clone()),
            large_work,
            probe,
            metrics,
            background,
            lifecycle: lifecycle::Current::default(),
        })
    }

    /// Returns the current phase of the lifecycle.
    pub fn lifecycle(&self) -> Lifecycle {
        self.lifecycle.get()
    }

    /// Advances to a later phase, never back. Serving starts the event tail.
    pub fn enter(&self, phase: Lifecycle) {
        if self.lifecycle.advance(phase) && phase == Lifecycle::Serving {
            self.events.start_tail(&self.background);
        }
    }

    /// Starts the tasks that need the schema.
    pub fn start_background(&self) {
        let sweeps = jobs::Runner::new(
            self.store.clone(),
            self.clock.clone(),
            self.config.retention,
            self.objects.clone(),
            self.metrics.jobs.clone(),
        );
        self.background.start_stoppable(&tasks::RETENTION, |stop| sweeps.run(stop));
        let quotas = self.quotas.clone();
        self.background.start_stoppable(&tasks::QUOTA_SETTLEMENT, |stop| quotas.keep_settling(stop));
        let register = Register::new(self.store.clone(), self.config.clone());
        self.background.start_stoppable(&tasks::REPLICA_REGISTER, |stop| register.keep(stop));
        let suspensions = self.suspensions.clone();
        self.background.start_stoppable(&tasks::SUSPENSIONS, |stop| suspensions.watch(stop));
        let (events, authenticator) = (self.events.clone(), self.authenticator.clone());
        self.background.start_stoppable(&tasks::STREAM_IDENTITIES, |stop| events.watch_identities(authenticator, stop));
        let delivery = self.delivery.clone();
        self.background.start_stoppable(&tasks::MAILBOX_ENVELOPES, |stop| delivery.fan_out(stop));
        let delivery = self.delivery.clone();
        self.background.start_stoppable(&tasks::MAILBOX_DELIVERY, |stop| delivery.deliver(stop));
    }

    /// Refuses requests until the schema is up to date. A draining server still answers.
    pub fn ensure_ready(&self) -> Result<(), Error> {
        match self.lifecycle() {
            Lifecycle::Starting => {
                Err(Code::DatabaseUnavailable.because("the server is starting; its database is not ready yet"))
            }
            Lifecycle::Serving | Lifecycle::Draining => Ok(()),
        }
    }

    /// A new ULID.
    pub fn new_id<T: FromUlid>(&self) -> T {
        T::from_ulid(Ulid::from_datetime(self.clock.now().into()))
    }
}
