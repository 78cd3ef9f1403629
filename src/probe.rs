//! State of the database, for the pages of operators. The pages need no authentication, so one check serves all requests
//! within a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::store::Store;

/// Time for which the result of a good check is used.
const FIT_FOR: Duration = Duration::from_secs(1);
/// Time for which the result of a bad check is used.
const UNFIT_FOR: Duration = Duration::from_millis(50);

/// Checks the database, one check at a time. All callers share its result. Cheap to clone.
#[derive(Clone)]
pub struct Probe(Arc<Inner>);

struct Inner {
    store: Store,
    clock: Clock,
    runtime: Handle,
    last: Mutex<Option<Check>>,
}

struct Check {
    begun: Instant,
    result: Shared<BoxFuture<'static, DatabaseHealth>>,
}

impl Check {
    fn is_good(&self) -> bool {
        let good_for = match self.result.peek() {
            // The check is still running.
            None => return true,
            Some(fitness) if fitness.is_fit() => FIT_FOR,
            Some(_) => UNFIT_FOR,
        };
        self.begun.elapsed() < good_for
    }
}

/// Result of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DatabaseHealth {
    /// It answers.
    pub answers: bool,
    /// It takes writes.
    pub writes: bool,
    /// Its schema is the one that this build needs.
    pub current: bool,
    /// Its clock and this machine's agree to a minute.
    pub clock: bool,
}

impl DatabaseHealth {
    pub fn is_fit(self) -> bool {
        self.answers && self.writes && self.current && self.clock
    }
}

impl Probe {
    /// Creates the probe. Checks run on `runtime`, which outlives requests.
    pub fn new(store: Store, clock: Clock, runtime: Handle) -> Self {
        Self(Arc::new(Inner { store, clock, runtime, last: Mutex::default() }))
    }

    /// Returns the state of the database, which may be up to a second old.
    pub async fn health(&self) -> DatabaseHealth {
        self.check().await
    }

    fn check(&self) -> Shared<BoxFuture<'static, DatabaseHealth>> {
        // No code panics while the lock is held.
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(check) = last.as_ref().filter(|check| check.is_good()) {
            return check.result.clone();
        }
        // A task of its own: a client that hangs up must not end the check for the others.
        let checking = self.0.runtime.spawn(check(self.0.store.clone(), self.0.clock.clone()));
        let result = async { checking.await.unwrap_or_default() }.boxed().shared();
        *last = Some(Check { begun: Instant::now(), result: result.clone() });
        result
    }
}

async fn check(store: Store, clock: Clock) -> DatabaseHealth {
    let Ok(fitness) = store.fitness().await else { return DatabaseHealth::default() };
    let (writes, current) = (fitness.writes, fitness.current);
    let clock = writes && current && store.agrees_with(&clock).await.unwrap_or(false);
    DatabaseHealth { answers: true, writes, current, clock }
}
