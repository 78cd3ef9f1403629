//! The composition root: from a configuration to everything that answers requests. The only place that picks a serializer.

mod metrics;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use ulid::Ulid;

use crate::actors::{Limits, Registry};
use crate::auth::{Authenticator, Replay, replay};
use crate::background::Background;
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::Delivery;
use crate::error::{Code, Error};
use crate::events::Events;
use crate::ids::{ConvoId, EntryId};
use crate::jobs;
use crate::limits::RateLimits;
use crate::memory::{BodyMemory, LargeWork, ReplyMemory};
use crate::probe::Probe;
use crate::quotas::Quotas;
use crate::redis::Redis;
use crate::serializer::Serializer;
use crate::store::{Store, StoreConfig, StoreError};
use crate::suspensions::Suspensions;

pub use metrics::Metrics;

/// What every handler is given. Cheap to clone.
#[derive(Clone)]
pub struct App {
    pub config: Arc<Config>,
    pub clock: Clock,
    pub store: Store,
    pub serializer: Serializer,
    pub authenticator: Arc<Authenticator>,
    pub limits: RateLimits,
    pub quotas: Quotas,
    pub events: Events,
    pub suspensions: Suspensions,
    pub delivery: Delivery,
    pub metrics: Metrics,
    pub body_memory: BodyMemory,
    pub reply_memory: ReplyMemory,
    pub large_work: LargeWork,
    pub probe: Probe,
    pub background: Background,
    stage: Arc<AtomicU8>,
}

/// Where in its life a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// The schema is not known to be there yet.
    Starting = 0,
    /// Requests are answered.
    Serving = 1,
    /// What runs is finished, nothing new should come.
    Draining = 2,
}

/// Why an [`App`] cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Auth(#[from] crate::auth::AuthError),
    #[error("Redis cannot be used: {0}")]
    Redis(#[from] crate::redis::Error),
}

impl App {
    /// Puts the parts together. Opens no connection to PostgreSQL yet. Must be called inside the multi-threaded runtime that
    /// shall do the work behind the requests.
    pub async fn new(config: Config, database: tokio_postgres::Config, clock: Clock) -> Result<Self, AppError> {
        let metrics = Metrics::default();
        let store_config = StoreConfig {
            database: database.clone(),
            max_connections: config.database_max_connections,
            pooler: config.database_pooler,
        };
        let store = Store::new(store_config, metrics.store.clone())?;
        let redis = config.redis_url.as_deref();
        let redis = redis.map(|url| Redis::connect(url, replay::PURPOSE, metrics.redis.clone())).transpose()?;
        let limits = RateLimits::new(config.rates, redis.as_ref(), metrics.limits.clone(), store.runtime());
        let quotas = Quotas::new(config.quotas, store.clone(), metrics.quotas.clone());
        let (pooler, connections) = (config.database_pooler, config.database_max_connections);
        let events = Events::new(
            &store,
            redis.as_ref(),
            database,
            pooler,
            connections,
            config.sse_buffer,
            metrics.events.clone(),
        );
        let serializer = if config.actors {
            let registry = Registry::new(store.clone(), metrics.actors.clone(), Limits::with_idle(config.actor_idle));
            Serializer::actors(store.clone(), registry, limits.clone())
        } else {
            Serializer::advisory(store.clone(), metrics.queues.clone(), config.database_max_connections, limits.clone())
        };
        let replay = Replay::with(redis, store.clone());
        let authenticator =
            Arc::new(Authenticator::new(config.auth.clone(), clock.clone(), replay, &store, metrics.auth.clone())?);
        let suspensions = Suspensions::new(store.clone(), events.clone(), metrics.suspensions.clone());
        let delivery = Delivery::new(store.clone(), config.mailboxes, metrics.delivery.clone());
        let stage = Arc::new(AtomicU8::new(Stage::Starting as u8));
        let large_work = LargeWork::new(store.runtime());
        let probe = Probe::new(store.clone(), clock.clone());
        Ok(Self {
            config: Arc::new(config),
            clock,
            store,
            serializer,
            authenticator,
            limits,
            quotas,
            events,
            suspensions,
            delivery,
            body_memory: BodyMemory::new(metrics.memory.clone()),
            reply_memory: ReplyMemory::new(metrics.memory.clone()),
            large_work,
            probe,
            metrics,
            background: Background::default(),
            stage,
        })
    }

    /// Where in its life the server is.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Serving,
            _ => Stage::Draining,
        }
    }

    /// Moves on to a later stage; never back.
    pub fn enter(&self, stage: Stage) {
        let before = self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        if stage == Stage::Serving && before == Stage::Starting as u8 {
            self.events.begin();
        }
    }

    /// Starts what runs beside the requests. The schema has to be there.
    pub fn start_background(&self) {
        let sweeps =
            jobs::Runner::new(self.store.clone(), self.clock.clone(), self.config.retention, self.metrics.jobs.clone());
        self.background.start(|stop| sweeps.run(stop));
        let quotas = self.quotas.clone();
        self.background.start(|stop| quotas.keep_settling(stop));
        let suspensions = self.suspensions.clone();
        self.background.start(|stop| suspensions.watch(stop));
        let (events, authenticator) = (self.events.clone(), self.authenticator.clone());
        self.background.start(|stop| events.watch_identities(authenticator, stop));
        let delivery = self.delivery.clone();
        self.background.start(|stop| delivery.fan_out(stop));
        let delivery = self.delivery.clone();
        self.background.start(|stop| delivery.hand_over(stop));
    }

    /// Refuses work until the schema is there. A draining server still answers what reaches it.
    pub fn ensure_ready(&self) -> Result<(), Error> {
        match self.stage() {
            Stage::Starting => {
                Err(Code::DatabaseUnavailable.because("the server is starting; its database is not ready yet"))
            }
            Stage::Serving | Stage::Draining => Ok(()),
        }
    }

    /// A new ULID.
    pub fn new_id<T: FromUlid>(&self) -> T {
        T::from_ulid(Ulid::from_datetime(self.clock.now().into()))
    }

    /// Counts an error if it is one of losing an epoch.
    pub fn count_conflict(&self, error: &Error) {
        if Code::OTHER_EPOCH.contains(&error.code) {
            self.metrics.commands.epoch_conflict();
        }
    }
}

/// An identifier that the server makes.
pub trait FromUlid {
    fn from_ulid(ulid: Ulid) -> Self;
}

impl FromUlid for String {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string()
    }
}

impl FromUlid for ConvoId {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string().parse().expect("26 letters and digits are an id")
    }
}

impl FromUlid for EntryId {
    fn from_ulid(ulid: Ulid) -> Self {
        ulid.to_string().parse().expect("26 letters and digits are an id")
    }
}
