//! The pool, and what every connection in it is set to.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime, Status};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::Error;
use crate::ids::ConvoId;
use crate::timing::{Stage, measure};

use super::changes::ChangeSet;
use super::failure::Abort;
use super::lanes::{Lane, Lanes};
use super::metrics::{Connections, StoreMetrics};
use super::session::{Reader, Session};
use super::{convos, deadline, read_positions};

/// What a [`Store`] is made of.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    pub database: tokio_postgres::Config,
    pub max_connections: usize,
    /// A pooler in transaction mode stands in between: it carries neither prepared statements nor start-up parameters.
    pub pooler: bool,
}

/// The database as the rest of the crate sees it. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(super) pool: Pool,
    /// Who may have a connection from it.
    pub(super) lanes: Lanes,
    pub(super) pooler: bool,
    /// Where connections are driven and units of work run, whichever thread asked: a worker's own runtime ends with it.
    pub(super) runtime: Handle,
    pub(super) metrics: StoreMetrics,
    pub(super) read_positions: read_positions::Queue,
    pub(super) groups: moka::future::Cache<ConvoId, Arc<convos::Group>>,
    pub(super) changes: ChangeSet,
}

/// Settings that PostgreSQL keeps for us, as start-up parameters.
fn session_settings() -> String {
    settings().iter().map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>().join(" ")
}

/// How a transaction begins: READ COMMITTED, whatever the database's default is, so that each statement sees what was committed
/// before it.
const BEGIN: &str = "begin isolation level read committed read write;";

/// The same with the settings for one transaction, where a pooler does not let the session have any.
static BEGIN_BEHIND_POOLER: LazyLock<String> = LazyLock::new(|| {
    let settings: String = settings().iter().map(|(name, value)| format!("set local {name} = {value};")).collect();
    format!("{BEGIN}{settings}{DURABLE_TRANSACTION}")
});

/// What was answered has to be on this server's disk at least (PostgreSQL manual 20.5.1, synchronous_commit). More than that is the
/// operator's to set, and stays as it is.
const DURABLE_SESSION: &str =
    "select set_config('synchronous_commit', 'local', false) where current_setting('synchronous_commit') = 'off'";
const DURABLE_TRANSACTION: &str =
    "select set_config('synchronous_commit', 'local', true) where current_setting('synchronous_commit') = 'off';";

fn settings() -> [(&'static str, String); 4] {
    let ms = |time: std::time::Duration| time.as_millis().to_string();
    [
        ("lock_timeout", ms(deadline::LOCK)),
        ("statement_timeout", ms(deadline::STATEMENT)),
        ("idle_in_transaction_session_timeout", ms(deadline::IDLE_IN_TRANSACTION)),
        // Its compiler takes longer than any statement here, and estimates alone call it.
        ("jit", "off".to_owned()),
    ]
}

/// Opens connections on the store's runtime.
struct Connector {
    runtime: Handle,
    tls: Option<MakeRustlsConnect>,
    pooler: bool,
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, config: &tokio_postgres::Config) -> Connecting<'_> {
        let (config, tls, pooler) = (config.clone(), self.tls.clone(), self.pooler);
        let opening = self.runtime.spawn(async move {
            let (client, connection) = open(config, tls).await?;
            if !pooler {
                client.batch_execute(DURABLE_SESSION).await?;
            }
            Ok((client, connection))
        });
        Box::pin(async move { opening.await.expect("opening a connection does not panic and is never aborted") })
    }
}

/// Opens one connection, driven by the current runtime, with TLS if there is a connector for it.
pub(super) async fn open(
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error> {
    let log = |result: Result<(), tokio_postgres::Error>| {
        if let Err(cause) = result {
            tracing::debug!(%cause, "a database connection ended");
        }
    };
    Ok(match tls {
        Some(tls) => {
            let (client, connection) = config.connect(tls).await?;
            (client, tokio::spawn(async move { log(connection.await) }))
        }
        None => {
            let (client, connection) = config.connect(NoTls).await?;
            (client, tokio::spawn(async move { log(connection.await) }))
        }
    })
}

/// Reason why a connection outside the pool cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("the database cannot be used: {}", super::failure::in_words(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Opens a connection outside the pool, for operator commands.
pub async fn connect(
    config: &tokio_postgres::Config,
) -> Result<(tokio_postgres::Client, JoinHandle<()>), ConnectError> {
    Ok(open(config.clone(), tls(config)?).await?)
}

/// TLS where the URL demands it (`sslmode=require`). "prefer" stays in the clear: the usual cluster is on this machine or in
/// this network, and whoever needs TLS must say so for it to protect anything.
pub(super) fn tls(config: &tokio_postgres::Config) -> Result<Option<MakeRustlsConnect>, rustls::Error> {
    match config.get_ssl_mode() {
        SslMode::Disable | SslMode::Prefer => Ok(None),
        _ => Ok(Some(MakeRustlsConnect::new(tls_config()?))),
    }
}

impl Store {
    /// Makes the pool; opens no connection yet. Must be called inside the multi-threaded runtime that shall drive them.
    pub fn new(config: StoreConfig, metrics: StoreMetrics) -> Result<Self, StoreError> {
        let mut database = config.database;
        database
            .application_name("catbird-server")
            .connect_timeout(deadline::CONNECT)
            .tcp_user_timeout(deadline::TCP_USER)
            .keepalives_idle(deadline::TCP_USER);
        if !config.pooler {
            // After those in the URL, which stay in force.
            let options = database.get_options().map(|given| format!("{given} ")).unwrap_or_default();
            database.options(options + &session_settings());
        }
        let tls = tls(&database)?;
        let runtime = Handle::current();
        let connector = Connector { runtime: runtime.clone(), tls, pooler: config.pooler };
        let manager =
            Manager::from_connect(database, connector, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.max_connections)
            // The one that was used last: its backend's caches are warm, and those of the processor.
            .queue_mode(QueueMode::Lifo)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(deadline::POOL))
            .create_timeout(Some(deadline::CONNECT))
            .recycle_timeout(Some(deadline::CONNECT))
            .build()?;
        let read_positions = read_positions::Queue::default();
        let groups = moka::future::Cache::new(convos::GROUPS);
        let changes = ChangeSet::default();
        let lanes = Lanes::new(config.max_connections);
        let pooler = config.pooler;
        Ok(Self { pool, lanes, pooler, runtime, metrics, read_positions, groups, changes })
    }

    /// A connection that can only read, for a request.
    pub async fn reader(&self) -> Result<Reader, crate::error::Error> {
        self.reader_for(Lane::Read).await
    }

    /// A connection that can only read.
    pub(crate) async fn reader_for(&self, lane: Lane) -> Result<Reader, crate::error::Error> {
        self.session(lane).await.map(Reader).map_err(Error::from)
    }

    /// Whom committed transactions concern.
    pub fn changes(&self) -> &ChangeSet {
        &self.changes
    }

    /// The runtime that outlives requests.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Records the state of the connections in the metrics.
    pub fn measure_connections(&self) {
        let (status, (waiting, unanswered)) = (self.pool.status(), self.lanes.status());
        let Status { size: open, available: idle, max_size: max, .. } = status;
        self.metrics.connections(Connections { open, idle, max, waiting, unanswered });
    }

    /// How a transaction begins, with the settings that the session does not have.
    pub(super) fn begin(&self) -> &'static str {
        if self.pooler { BEGIN_BEHIND_POOLER.as_str() } else { BEGIN }
    }

    pub(super) async fn session(&self, lane: Lane) -> Result<Session, Abort> {
        let taking = async {
            let place = self.lanes.place(lane).await?;
            Ok::<_, Abort>((self.pool.get().await?, place))
        };
        let (client, place) = measure(Stage::Connection, taking).await?;
        Ok(Session::new(client, place, self.clone()))
    }
}

/// Why a [`Store`] cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the pool cannot be built: {0}")]
    Pool(#[from] deadpool_postgres::BuildError),
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

fn tls_config() -> Result<rustls::ClientConfig, rustls::Error> {
    use rustls_platform_verifier::BuilderVerifierExt;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth())
}
