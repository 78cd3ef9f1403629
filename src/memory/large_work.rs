//! Decoding of large bodies and encoding of large replies, on blocking threads and a few at a time. Each takes a processor for many
//! milliseconds; on a thread of the HTTP library it would stop all requests of that thread.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{Code, Error};
use crate::timing::within;

/// A body or a reply with more bytes than this is large.
pub const LARGE: usize = 256 * 1024;

/// Longest wait for a permit.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Executor of large work. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LargeWork {
    permits: Arc<Semaphore>,
    runtime: Handle,
}

impl LargeWork {
    /// Runs as many jobs at a time as half of the processors, on blocking threads of `runtime`.
    pub fn new(runtime: &Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { permits: Arc::new(Semaphore::new((processors / 2).max(1))), runtime: runtime.clone() }
    }

    /// Runs `work` when a permit is free, in the order of the calls. A job that has begun runs to its end, even if the caller is dropped.
    ///
    /// Errors: `Overloaded` after [`MAX_WAIT`].
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let Ok(permit) = within(MAX_WAIT, self.permits.clone().acquire_owned()).await else {
            return Err(Code::Overloaded.because("too many large requests are waiting; nothing was changed"));
        };
        let permit = permit.expect("the semaphore is never closed");
        let working = self.runtime.spawn_blocking(move || {
            let done = work();
            drop(permit);
            done
        });
        working.await.map_err(|_| Error::internal("a large body or reply could not be processed"))
    }
}
