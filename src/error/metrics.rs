//! The metric of refused requests. Everything that refuses one counts here.

use crate::error::Code;
use crate::metrics::{Counters, Register, Registry};

/// Refused requests by error. Cheap to clone.
#[derive(Clone)]
pub struct ErrorMetrics {
    errors: Counters<1>,
}

impl ErrorMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self { errors: registry.counters("xrpc_errors", "Requests refused, by error name") }
    }

    /// Counts one refused request.
    pub fn error(&self, code: Code) {
        self.errors.get_or_create(&[("error", code.name())]).inc();
    }
}
