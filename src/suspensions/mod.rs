//! Suspended DIDs: an operator shuts somebody out, and every replica keeps to it.
//!
//! A suspended caller changes nothing and follows nothing: procedures, key packages and streams are refused with `AccountSuspended`, and
//! streams that are open end. It may still read what it may see, since that is its own. What it has written stays.
//!
//! The table `suspensions` is the truth. Each replica keeps the DIDs in memory, so a request costs a look into a set, and looks for
//! changes every [`LOOK`], which reads one row. It takes no request before it has looked for the first time. While PostgreSQL does
//! not answer nothing is learnt, and nothing can be written either.

pub mod names;
pub mod operators;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::error::{Code, Error};
use crate::events::Events;
use crate::ids::Did;
use crate::store::{Lane, Store};

use names::{NameKey, Named};

/// How often a replica looks whether the suspensions have changed.
pub const LOOK: Duration = Duration::from_secs(2);

/// Whom this replica knows to be suspended. Cheap to clone.
#[derive(Clone)]
pub struct Suspensions(Arc<Inner>);

struct Inner {
    store: Store,
    events: Events,
    known: RwLock<Known>,
    named: Named,
}

#[derive(Default)]
struct Known {
    /// `None` before the first look.
    version: Option<String>,
    dids: Arc<HashSet<String>>,
}

impl Suspensions {
    /// Nobody is suspended before [`Suspensions::look`] has been called.
    pub fn new(store: Store, events: Events) -> Self {
        Self(Arc::new(Inner { store, events, known: RwLock::default(), named: Named::default() }))
    }

    /// Refuses whoever is suspended, with `AccountSuspended`.
    pub fn refuse(&self, did: &Did) -> Result<(), Error> {
        // Nothing panics while it is held.
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if known.dids.contains(did.as_str()) { Err(suspended()) } else { Ok(()) }
    }

    /// Tells operators who was refused by a limit, at most once in [`names::EVERY`] for each caller, and by a name that only they can
    /// trace.
    pub fn note_refusal(&self, did: &Did) {
        if let Some(caller) = self.0.named.name(did, Instant::now()) {
            tracing::info!(caller, "a caller was refused by a limit; others of its refusals may follow unsaid");
        }
    }

    /// Learns who is suspended now, and ends their streams.
    pub async fn look(&self) -> Result<(), Error> {
        let reader = self.0.store.reader_for(Lane::Vital).await?;
        if self.0.named.key.get().is_none() {
            let _ = self.0.named.key.set(NameKey(reader.names_key().await?));
        }
        // First, so that a change during the reading is noticed at the next look.
        let version = Some(reader.suspensions_version().await?);
        let known = || self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        if known().version != version {
            let dids = Arc::new(reader.suspended().await?);
            tracing::info!(suspended = dids.len(), "the suspended DIDs are known");
            self.0.store.metrics().suspended(dids.len());
            *self.0.known.write().unwrap_or_else(PoisonError::into_inner) = Known { version, dids };
        }
        let dids = known().dids.clone();
        if !dids.is_empty() {
            // Every time: one that was let in a moment before may only be registered now.
            self.0.events.suspend(&dids);
        }
        Ok(())
    }

    /// Looks until told to stop.
    pub async fn watch(self, mut stop: watch::Receiver<bool>) {
        let mut told = false;
        while tokio::time::timeout(LOOK, stop.wait_for(|stop| *stop)).await.is_err() {
            match self.look().await {
                Ok(()) => told = false,
                Err(error) if !told => {
                    tracing::warn!(%error, "who is suspended cannot be read; trying until it can");
                    told = true;
                }
                Err(_) => {}
            }
        }
    }
}

/// What a suspended caller is told.
pub fn suspended() -> Error {
    Code::AccountSuspended.because("an operator of this service has suspended you: you can read, and nothing else")
}
