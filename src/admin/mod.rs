//! `catbird-server admin`: what operators do with people and conversations without SQL.
//!
//! Every command that reads or changes data of people is recorded in the table `admin_audit` before it begins and when it has finished
//! ([`Admin::recorded`]). Changes are made in portions, each a transaction; those of a conversation take its lock, as the server's own do. A
//! command that was interrupted is completed by the same command. With `--dry-run` a command counts what it would change, and changes and
//! records nothing.

mod audit;
mod command;
mod delete;
mod erase;
mod export;
mod lookup;
mod progress;
mod suspend;

use std::sync::Arc;

use nix::unistd::{Uid, User, gethostname};
use ulid::Ulid;

use crate::background::portion::Portion;
use crate::config::{BlobStore, Config};
use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::metrics::Registry;
use crate::objects;
use crate::store::admin::{OperatorError, Run};
use crate::store::erasure::Tally;
use crate::store::{Command, ConnectError, LockMode, Operator, Store, StoreConfig, StoreError, StoreMetrics};

pub use command::AdminCommand;

/// Connections for changes, of which a command uses one at a time. Fewer would leave none to one of the lanes.
const CONNECTIONS: usize = 4;
/// Most rows of each table in one transaction.
const MAX_ROWS: i64 = 500;

/// Reason why a command of an operator failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    #[error(transparent)]
    Connection(#[from] ConnectError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Service(#[from] Error),
    #[error("there is no conversation {0}")]
    NoConvo(String),
    #[error("the table caller_names is empty")]
    NoNamesKey,
    #[error(transparent)]
    BlobStore(#[from] objects::OpenError),
    #[error("the export cannot be written: {0}")]
    Export(#[from] std::io::Error),
}

impl From<OperatorError> for AdminError {
    fn from(error: OperatorError) -> Self {
        match error {
            OperatorError::Connection(error) => Self::Connection(error),
            OperatorError::Service(error) => Self::Service(error),
        }
    }
}

/// Access of one command to the database.
struct Admin {
    /// Connection for reads, and for statements that are transactions by themselves.
    operator: Operator,
    /// The server's own write path.
    store: Store,
    /// DID of the service.
    service: Did,
    /// Place of ciphertexts that are not in the database.
    blob_store: BlobStore,
}

impl Admin {
    async fn connect(config: &Config, database: &tokio_postgres::Config) -> Result<Self, AdminError> {
        let store =
            StoreConfig { database: database.clone(), max_connections: CONNECTIONS, pooler: config.database_pooler };
        Ok(Self {
            operator: Operator::connect(database).await?,
            store: Store::new(store, StoreMetrics::register(&mut Registry::default()))?,
            service: config.auth.service_did.clone(),
            blob_store: config.blob_store.clone(),
        })
    }

    /// Returns the conversation that an operator names by its id or a group id.
    async fn convo(&self, name: &ConvoId) -> Result<ConvoId, AdminError> {
        self.operator.find_convo(name).await?.ok_or_else(|| AdminError::NoConvo(name.to_string()))
    }

    /// Runs a command and records it, with the numbers that it returns.
    async fn recorded(
        &self,
        command: &'static str,
        target: &str,
        reason: &str,
        work: impl AsyncFnOnce() -> Result<Tally, AdminError>,
    ) -> Result<Tally, AdminError> {
        let (target, reason) = (target.to_owned(), reason.to_owned());
        let run = Run { id: Ulid::new().to_string(), command, target, reason, os_user: os_user(), host: host() };
        self.operator.record(&run, None).await?;
        let counts = work().await?;
        self.operator.record(&run, Some(&counts)).await?;
        Ok(counts)
    }

    /// Runs a command on its conversation, under the lock.
    async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let store = self.store.clone();
        let running = async move { store.run(Arc::new(command), LockMode::Lock).await };
        self.store.detached(async { running.await.map(|done| done.output).map_err(Error::from) }).await
    }

    /// Runs portions of work until one returns that it was the last. A portion that fails is made smaller.
    async fn in_portions(&self, mut work: impl AsyncFnMut(i64) -> Result<bool, Error>) -> Result<(), Error> {
        let mut portion = Portion::new(MAX_ROWS);
        loop {
            match work(portion.size()).await {
                Ok(true) => portion.grow(),
                Ok(false) => return Ok(()),
                Err(_) if portion.shrink() => {}
                Err(failed) => return Err(failed),
            }
        }
    }
}

/// Name of the user of the operating system, or its number.
fn os_user() -> String {
    let uid = Uid::effective();
    User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

fn host() -> String {
    gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}
