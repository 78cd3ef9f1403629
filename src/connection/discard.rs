//! What is left of bodies that nobody reads. It is read and thrown away, because a client that is still sending may look for its reply only
//! afterwards. That costs as much as reading what is wanted, so there is a rate for it, over all connections together: beyond that the
//! bytes wait in the kernel, where TCP makes their senders wait. Who looks for the reply meanwhile has it all the same.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many bytes are thrown away per second, over all connections of a server together.
pub const DISCARD_RATE: u64 = 32 * 1024 * 1024;
/// How long that rate may be exceeded.
const BURST: Duration = Duration::from_millis(100);
/// Most bytes that are read at once to be thrown away.
pub(super) const DISCARD_PIECE: usize = 32 * 1024;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Discard(Arc<Mutex<Instant>>);

impl Default for Discard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Discard {
    /// When more may be thrown away; `None`: now.
    pub(super) fn wait(&self) -> Option<Instant> {
        let next = self.paid_off().checked_sub(BURST)?;
        (next > Instant::now()).then_some(next)
    }

    /// So many bytes were thrown away.
    pub(super) fn count(&self, bytes: usize) {
        let mut paid_off = self.paid_off();
        *paid_off = (*paid_off).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / DISCARD_RATE as f64);
    }

    /// When everything will have been thrown away within the rate.
    fn paid_off(&self) -> MutexGuard<'_, Instant> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
