//! The row of this replica among those that serve, so that `doctor` can compare their settings and add up their
//! connections. No request depends on it.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::sync::watch;
use ulid::Ulid;

use crate::config::Config;
use crate::error::Error;
use crate::hex;
use crate::store::{Lane, Replica, Store};

/// Interval at which a replica writes its row.
const INTERVAL: Duration = Duration::from_secs(30);
/// Time for which a row shows that its replica lives.
pub const ALIVE: Duration = Duration::from_secs(90);
/// Maximum time to delete the row when the replica stops. Without that it looks alive for [`ALIVE`].
const MAX_LEAVING: Duration = Duration::from_secs(1);
/// Bytes of the hash of a secret, which has two hex digits for each.
const HASH_BYTES: usize = 8;

/// Writes the row of this replica.
pub struct Register {
    store: Store,
    config: Arc<Config>,
    id: String,
}

impl Register {
    pub fn new(store: Store, config: Arc<Config>) -> Self {
        Self { store, config, id: Ulid::new().to_string() }
    }

    /// Keeps the row until it is stopped, then deletes it.
    pub async fn keep(self, mut stop: watch::Receiver<bool>) {
        loop {
            if let Err(error) = self.note().await {
                tracing::debug!(%error, "this replica could not note that it serves");
            }
            if tokio::time::timeout(INTERVAL, stop.wait_for(|stop| *stop)).await.is_ok() {
                break;
            }
        }
        let left = tokio::time::timeout(MAX_LEAVING, self.store.leave_replica(self.id)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::debug!("this replica could not note that it stops");
        }
    }

    async fn note(&self) -> Result<(), Error> {
        let key = self.store.reader_for(Lane::Background).await?.names_key().await?;
        let replica = Replica {
            id: self.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            role: String::new(),
            connections: connections(&self.config),
            settings: settings(&self.config, &key),
        };
        self.store.note_replica(replica).await
    }
}

/// Returns the most connections to PostgreSQL that a replica with this configuration opens.
pub fn connections(config: &Config) -> i32 {
    let listens = !config.database_pooler && config.redis_url.is_none();
    i32::try_from(config.database_max_connections).unwrap_or(i32::MAX).saturating_add(listens.into())
}

/// Returns the settings that all replicas should have alike, as an object of texts; of a secret its hash with `key`, the key
/// of the table `caller_names`. The hash tells whether two secrets are equal, and nothing else without the key.
pub fn settings(config: &Config, key: &[u8]) -> Value {
    json!(config.shared(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        // Apart from the names of callers, which the key serves too.
        mac.update(b"catbird-server/setting\0");
        mac.update(secret.as_bytes());
        hex::encode(&mac.finalize().into_bytes()[..HASH_BYTES])
    }))
}
