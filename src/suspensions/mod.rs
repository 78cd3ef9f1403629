//! Suspended DIDs: an operator suspends an account, and every replica enforces it.
//!
//! A suspended caller cannot write or subscribe: procedures, key packages and streams are refused with
//! `AccountSuspended`, and its open streams are closed. It can still read its conversations, and its data stays.
//!
//! The table `suspensions` is the truth. Each replica caches the DIDs in memory, so a request costs one set lookup, and
//! polls for changes every [`POLL_INTERVAL`], which reads one row. A replica accepts no request before its first poll. While
//! PostgreSQL does not answer, the cache is not updated, and no write is possible either.

mod metrics;
pub(crate) mod names;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Code, Error};
use crate::events::Events;
use crate::ids::Did;
use crate::store::{Lane, Store};

use names::{NameKey, RecentlyLogged};

pub use metrics::SuspensionMetrics;

/// Interval at which a replica polls for changed suspensions.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Suspended DIDs known to this replica. Cheap to clone.
#[derive(Clone)]
pub struct Suspensions(Arc<Inner>);

struct Inner {
    store: Store,
    events: Events,
    known: RwLock<Known>,
    named: RecentlyLogged,
    metrics: SuspensionMetrics,
}

#[derive(Default)]
struct Known {
    /// `None` before the first poll.
    version: Option<String>,
    dids: Arc<HashSet<String>>,
}

impl Suspensions {
    /// Starts with no suspended DID; [`Suspensions::refresh`] reads them.
    pub fn new(store: Store, events: Events, metrics: SuspensionMetrics) -> Self {
        Self(Arc::new(Inner { store, events, known: RwLock::default(), named: RecentlyLogged::default(), metrics }))
    }

    /// Refuses a suspended caller with `AccountSuspended`.
    pub fn refuse(&self, did: &Did) -> Result<(), Error> {
        // No code panics while it holds this lock.
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.dids.contains(did.as_str()) { Err(suspended()) } else { Ok(()) }
    }

    /// Logs a caller that a limit refused, at most once per [`names::LOG_INTERVAL`] and caller, under a name that only
    /// operators can resolve.
    pub fn log_refusal(&self, did: &Did) {
        if let Some(caller) = self.0.named.name(did, Instant::now()) {
            tracing::info!(caller, "a caller was refused by a limit; others of its refusals may follow unsaid");
        }
    }

    /// Reads the suspended DIDs, and closes their streams.
    pub async fn refresh(&self) -> Result<(), Error> {
        let reader = self.0.store.reader_for(Lane::Vital).await?;
        if self.0.named.key.get().is_none() {
            let _ = self.0.named.key.set(NameKey(reader.names_key().await?));
        }
        // The version is read first, so a change during the read is noticed by the next poll.
        let version = Some(reader.suspensions_version().await?);
        let known = || self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if known().version != version {
            let dids = Arc::new(reader.suspended().await?);
            tracing::info!(suspended = dids.len(), "suspended DIDs were read");
            self.0.metrics.suspended(dids.len());
            *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Known { version, dids };
        }
        let dids = known().dids.clone();
        if !dids.is_empty() {
            // At every poll: a stream that was accepted a moment before may only be registered now.
            self.0.events.suspend(&dids);
        }
        Ok(())
    }

    /// Polls until it is stopped.
    pub async fn watch(self, mut stop: watch::Receiver<bool>) {
        let mut told = false;
        while tokio::time::timeout(POLL_INTERVAL, stop.wait_for(|stop| *stop)).await.is_err() {
            match self.refresh().await {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::warn!(%error, "suspended DIDs cannot be read; retrying");
                    told = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// Error for a suspended caller.
pub fn suspended() -> Error {
    Code::AccountSuspended.because("an operator of this service has suspended your account; you can only read")
}
