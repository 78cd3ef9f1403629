//! What goes wrong at the store: attempts with growing waits, the log, and the error that callers get.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use crate::clock::jitter;
use crate::error::{Code, Error};
use crate::timing;

/// Attempts of an operation, the first included.
const ATTEMPTS: u32 = 3;
/// Wait before the second attempt, at most; it doubles with each attempt.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Maximum time of an attempt, without what the bytes of an object take.
pub(super) const ATTEMPT_TIME: Duration = Duration::from_millis(2_500);
/// Maximum time of an operation with all its attempts, so that a request is answered before its deadline.
pub(super) const OPERATION_TIME: Duration = Duration::from_secs(8);
/// Time between two warnings that the store fails.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A failure of the store. Its cause is for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{cause}")]
pub(super) struct Failure {
    cause: String,
    /// True if another attempt cannot succeed, such as with a key that the store refuses.
    is_final: bool,
}

impl Failure {
    /// A failure that may pass.
    pub fn new(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), is_final: false }
    }

    /// A failure that another attempt meets as well.
    pub fn lasting(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), is_final: true }
    }

    /// Returns whether another attempt meets it as well.
    pub fn is_final(&self) -> bool {
        self.is_final
    }

    /// The store has not answered in this time.
    pub fn silent(time: Duration) -> Self {
        Self::new(format!("it took no byte and sent none for {} s", time.as_secs_f32()))
    }
}

impl From<object_store::Error> for Failure {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error::{PermissionDenied, Unauthenticated};
        let is_final = matches!(error, PermissionDenied { .. } | Unauthenticated { .. });
        Self { cause: error.to_string(), is_final }
    }
}

/// Makes attempts until one succeeds, each in at most `longest`, and all together within `all` and the deadline of this
/// task's request.
pub(super) async fn attempts<T, F>(
    longest: Duration,
    all: Duration,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Failure>
where
    F: Future<Output = Result<T, Failure>>,
{
    let mut last = None;
    let trying = async {
        let mut wait = FIRST_WAIT;
        for n in 1.. {
            match timeout(longest, attempt()).await.unwrap_or_else(|_| Err(Failure::silent(longest))) {
                Ok(done) => return Ok(done),
                Err(failure) if failure.is_final || n == ATTEMPTS => return Err(failure),
                Err(failure) => last = Some(failure),
            }
            // Requests that fail together do not come again together.
            sleep(wait / 2 + (wait / 2).mul_f64(jitter())).await;
            wait *= 2;
        }
        unreachable!("the last attempt returns");
    };
    let tried = timing::within(all, trying).await;
    tried.unwrap_or_else(|_| Err(last.unwrap_or_else(|| Failure::new("it did not answer in the time of the request"))))
}

/// Log of the store's failures: the first one, then a summary at intervals, and the recovery.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Failing>);

#[derive(Debug, Default)]
struct Failing {
    warned: Option<Instant>,
    /// Failures since the last warning.
    unsaid: u64,
}

impl Log {
    /// Notes a failure, and returns the error that its caller gets.
    pub fn failed(&self, operation: &'static str, failure: &Failure) -> Error {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failing.unsaid += 1;
        if failing.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            let failures = std::mem::take(&mut failing.unsaid);
            failing.warned = Some(Instant::now());
            tracing::warn!(operation, failures, cause = failure.cause, "the blob store fails");
        } else {
            tracing::debug!(operation, cause = failure.cause, "the blob store fails");
        }
        Code::BlobStoreUnavailable.because("blobs can be neither stored nor read at present; try again")
    }

    /// Notes a success.
    pub fn succeeded(&self) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failing.warned.take().is_some() {
            failing.unsaid = 0;
            tracing::warn!("the blob store works again");
        }
    }
}
