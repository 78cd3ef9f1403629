//! The store and its pool of connections.

use deadpool_postgres::{Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime, Status};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::timing::{Stage, measure};

use super::changes::ChangeSet;
use super::connect::{self, BEGIN, BEGIN_BEHIND_POOLER, Connector};
use super::convos::Names;
use super::deadline;
use super::failure::Abort;
use super::groups::Groups;
use super::lanes::{Lane, Lanes};
use super::metrics::{Connections, StoreMetrics};
use super::session::{Reader, Session};
use super::tls::tls;

/// Configuration of a [`Store`].
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub database: tokio_postgres::Config,
    pub max_connections: usize,
    /// True behind a pooler in transaction mode, which supports neither prepared statements nor start-up parameters.
    pub pooler: bool,
}

/// Access to the database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) pool: Pool,
    /// Limits on connections by class of work.
    pub(super) lanes: Lanes,
    pub(super) pooler: bool,
    /// Runtime of the connections and transactions, whichever thread asked: the runtime of a worker ends with the
    /// worker.
    pub(super) runtime: Handle,
    pub(super) metrics: StoreMetrics,
    pub(super) groups: Groups,
    pub(super) names: Names,
    pub(super) changes: ChangeSet,
}

impl Store {
    /// Creates the pool without opening a connection. It must be called inside the multi-threaded runtime that will
    /// drive the connections.
    pub fn new(config: StoreConfig, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let database = connect::of_pool(config.database, config.pooler);
        let tls = tls(&database)?;
        let runtime = Handle::current();
        let connector = Connector { runtime: runtime.clone(), tls, pooler: config.pooler };
        let manager =
            Manager::from_connect(database, connector, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.max_connections)
            // The connection used last has the warmest caches, in its backend and in the processor.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(deadline::POOL))
            .create_timeout(Some(deadline::CONNECT))
            .recycle_timeout(Some(deadline::CONNECT))
            .build()?;
        let (groups, names) = (Groups::default(), Names::default());
        let changes = ChangeSet::default();
        let lanes = Lanes::new(config.max_connections);
        let pooler = config.pooler;
        Ok(Self { pool, lanes, pooler, runtime, metrics, groups, names, changes })
    }

    /// Returns a connection that can only read, for a request.
    pub async fn reader(&self) -> Result<Reader, Error> {
        self.reader_for(Lane::Read).await
    }

    /// Returns a connection that can only read.
    pub(crate) async fn reader_for(&self, lane: Lane) -> Result<Reader, Error> {
        self.session(lane).await.map(Reader).map_err(Error::from)
    }

    /// Topics that committed transactions affect.
    pub fn changes(&self) -> &ChangeSet {
        &self.changes
    }

    /// Records the state of the connections in the metrics.
    pub fn measure_connections(&self) {
        let (status, (waiting, unanswered)) = (self.pool.status(), self.lanes.status());
        let Status { size: open, available: idle, max_size: max, .. } = status;
        self.metrics.connections(Connections { open, idle, max, waiting, unanswered });
    }

    /// Returns the statement that starts a transaction, with the settings that the session does not have.
    pub(super) fn begin(&self) -> &'static str {
        if self.pooler { BEGIN_BEHIND_POOLER.as_str() } else { BEGIN }
    }

    pub(super) async fn session(&self, lane: Lane) -> Result<Session, Abort> {
        let taking = async {
            let place = self.lanes.place(lane).await.inspect_err(|_| self.metrics.connection_timed_out(lane))?;
            Ok::<_, Abort>((self.pool.get().await?, place))
        };
        let (client, place) = measure(Stage::Connection, taking).await?;
        Ok(Session::new(client, place, self.clone()))
    }
}

/// Reason why a [`Store`] cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the pool cannot be built: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}
