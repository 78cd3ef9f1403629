//! The pool, and what every connection in it is set to.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use deadpool_postgres::{Connect, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::ids::ConvoId;
use crate::metrics::Metrics;
use crate::timing::{Stage, measure};

use super::changes::Changes;
use super::failure::Abort;
use super::session::{Reader, Session};
use super::{convos, deadline, members, read_positions, statistics};

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
    pub(super) pooler: bool,
    /// Where connections are driven and units of work run, whichever thread asked: a worker's own runtime ends with it.
    pub(super) runtime: Handle,
    pub(super) metrics: Metrics,
    pub(super) read_positions: read_positions::Queue,
    pub(super) group_ids: moka::future::Cache<ConvoId, Arc<str>>,
    /// Who is or was in which conversation, as far as it was asked: "convo did".
    pub(super) acquainted: moka::sync::Cache<String, ()>,
    pub(super) changes: Changes,
}

/// Settings that PostgreSQL keeps for us, as start-up parameters.
fn session_settings() -> String {
    settings().iter().map(|(name, value)| format!("-c {name}={value}")).collect::<Vec<_>>().join(" ")
}

/// The same for one transaction, where a pooler does not let the session have any.
pub(super) fn transaction_settings() -> String {
    settings().iter().map(|(name, value)| format!("set local {name} = {value};")).collect()
}

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
}

type Connecting<'a> =
    Pin<Box<dyn Future<Output = Result<(tokio_postgres::Client, JoinHandle<()>), tokio_postgres::Error>> + Send + 'a>>;

impl Connect for Connector {
    fn connect(&self, config: &tokio_postgres::Config) -> Connecting<'_> {
        let opening = self.runtime.spawn(open(config.clone(), self.tls.clone()));
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

/// One connection of its own, outside the pool: for what operators run.
pub async fn connect(
    config: &tokio_postgres::Config,
) -> Result<(tokio_postgres::Client, JoinHandle<()>), super::MigrationError> {
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
    pub fn new(config: StoreConfig, metrics: Metrics) -> Result<Self, StoreError> {
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
        let connector = Connector { runtime: runtime.clone(), tls };
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
        let group_ids = moka::future::Cache::new(convos::GROUP_IDS);
        let acquainted = moka::sync::Cache::new(members::ACQUAINTED);
        let changes = Changes::default();
        let store =
            Self { pool, pooler: config.pooler, runtime, metrics, read_positions, group_ids, acquainted, changes };
        store.read_positions.start(store.clone());
        statistics::start(&store);
        Ok(store)
    }

    /// A connection that can only read.
    pub async fn reader(&self) -> Result<Reader, crate::error::Error> {
        self.session().await.map(Reader).map_err(Abort::into_error)
    }

    /// Whom committed transactions concern.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// The runtime that outlives requests.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What is counted here and by those who use this.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Connections open, connections idle, requests waiting for one.
    pub fn pool_status(&self) -> (usize, usize, usize) {
        let status = self.pool.status();
        (status.size, status.available, status.waiting)
    }

    pub(super) async fn session(&self) -> Result<Session, Abort> {
        let client = measure(Stage::Connection, self.pool.get()).await?;
        Ok(Session::new(client, !self.pooler, self.metrics.clone()))
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
