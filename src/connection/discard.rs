//! Discarding of bodies that the server does not read. The rest of such a body is read and dropped, because a client
//! may look for its reply only after it has sent everything. This costs as much as reading a wanted body, so it has a
//! rate over all connections together. Beyond the rate the bytes wait in the kernel, and TCP makes their senders wait.
//! A client that reads its reply meanwhile gets it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Bytes that are discarded per second, over all connections of a server.
pub const DISCARD_RATE: u64 = 32 * 1024 * 1024;
/// Time for which that rate may be exceeded.
const BURST: Duration = Duration::from_millis(100);
/// Maximum number of bytes that are read at once to be discarded.
pub(super) const DISCARD_PIECE: usize = 32 * 1024;

/// Rate limiter for discarded bytes. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Discard(Arc<Mutex<Instant>>);

impl Default for Discard {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Discard {
    /// Returns the time from which more may be discarded; `None`: now.
    pub(super) fn wait(&self) -> Option<Instant> {
        let next = self.paid_off().checked_sub(BURST)?;
        (next > Instant::now()).then_some(next)
    }

    /// Records that this many bytes were discarded.
    pub(super) fn count(&self, bytes: usize) {
        let mut paid_off = self.paid_off();
        *paid_off = (*paid_off).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / DISCARD_RATE as f64);
    }

    /// Time at which the discarded bytes will be within the rate.
    fn paid_off(&self) -> MutexGuard<'_, Instant> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
