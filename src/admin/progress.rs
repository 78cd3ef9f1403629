//! Progress of a long command, on standard error.

use std::time::{Duration, Instant};

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints how far a command has come, about once a second. A short command prints nothing.
pub(super) struct Progress {
    printed: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { printed: Instant::now() }
    }

    /// Prints what was done so far, if the last line is old enough.
    pub(super) fn show(&mut self, done: impl FnOnce() -> String) {
        if self.printed.elapsed() >= INTERVAL {
            self.printed = Instant::now();
            eprintln!("{}", done());
        }
    }
}
