//! Connections to PostgreSQL: how they are opened, and the settings that each has.

use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;

use deadpool_postgres::Connect;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::deadline;
use super::tls::tls;

/// Returns the configuration of the pool's connections. `pooler` is as in [`StoreConfig`](super::StoreConfig).
pub(super) fn of_pool(mut database: tokio_postgres::Config, pooler: bool) -> tokio_postgres::Config {
    database
        .application_name("catbird-server")
        .connect_timeout(deadline::CONNECT)
        .tcp_user_timeout(deadline::TCP_USER)
        .keepalives_idle(deadline::TCP_USER);
    if !pooler {
        // Options of the URL come first and stay in force.
        let options = database.get_options().map(|given| format!("{given} ")).unwrap_or_default();
        let session = settings().map(|(name, value)| format!("-c {name}={value}"));
        database.options(options + &session.join(" "));
    }
    database
}

/// Start of a transaction: READ COMMITTED, whatever the default of the database is, so that each statement sees
/// everything that was committed before it.
pub(super) const BEGIN: &str = "begin isolation level read committed read write;";

/// Start of a transaction behind a pooler, with the settings that the session cannot have.
pub(super) static BEGIN_BEHIND_POOLER: LazyLock<String> = LazyLock::new(|| {
    let settings: String = settings().iter().map(|(name, value)| format!("set local {name} = {value};")).collect();
    format!("{BEGIN}{settings}{DURABLE_TRANSACTION}")
});

/// A confirmed write must be at least on the local disk (PostgreSQL manual 20.5.1, synchronous_commit). Stricter
/// settings of the operator stay in force.
const DURABLE_SESSION: &str =
    "select set_config('synchronous_commit', 'local', false) where current_setting('synchronous_commit') = 'off'";
const DURABLE_TRANSACTION: &str =
    "select set_config('synchronous_commit', 'local', true) where current_setting('synchronous_commit') = 'off';";

fn settings() -> [(&'static str, String); 4] {
    let [lock, statement, idle] = time_limits();
    // JIT compilation takes longer than any statement here, and estimates alone trigger it.
    [lock, statement, idle, ("jit", "off".to_owned())]
}

/// Returns PostgreSQL's time limits for the server's sessions, in milliseconds.
pub(super) fn time_limits() -> [(&'static str, String); 3] {
    let ms = |time: std::time::Duration| time.as_millis().to_string();
    [
        ("lock_timeout", ms(deadline::LOCK)),
        ("statement_timeout", ms(deadline::STATEMENT)),
        ("idle_in_transaction_session_timeout", ms(deadline::IDLE_IN_TRANSACTION)),
    ]
}

/// Opens connections on the store's runtime.
pub(super) struct Connector {
    pub(super) runtime: Handle,
    pub(super) tls: Option<MakeRustlsConnect>,
    pub(super) pooler: bool,
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

/// Opens one connection on the current runtime, with TLS if there is a connector.
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
