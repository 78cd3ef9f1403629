//! Where large bodies are decoded and large replies are made: on threads of their own, a few at a time, because each takes a processor for
//! many milliseconds, in which a thread that answers requests would answer nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::error::{Code, Error};
use crate::timing::within;

/// From how many bytes on a body or a reply is large.
pub(super) const LARGE: usize = 256 * 1024;

/// How long one waits for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Heavy {
    places: Arc<Semaphore>,
    runtime: Handle,
}

impl Heavy {
    /// As much at a time as half of the processors can do, on threads of this runtime.
    pub fn new(runtime: &Handle) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { places: Arc::new(Semaphore::new((processors / 2).max(1))), runtime: runtime.clone() }
    }

    /// Does something as soon as it is its turn, in order, or answers `Overloaded` after [`LONGEST_WAIT`]. Once begun it goes on, also if
    /// nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let Ok(place) = within(LONGEST_WAIT, self.places.clone().acquire_owned()).await else {
            return Err(Code::Overloaded.because("large bodies and replies wait for too long; nothing was changed"));
        };
        let place = place.expect("nobody closes it");
        let working = self.runtime.spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        working.await.map_err(|_| Error::internal("a large body or reply could not be worked on"))
    }
}
