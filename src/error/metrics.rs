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
        let series = Code::ALL.iter().map(|code| [("error", code.name())]);
        Self { errors: registry.counters_of("xrpc_errors", "Requests refused, by error name", series) }
    }

    /// Counts one refused request.
    pub fn error(&self, code: Code) {
        self.errors.get_or_create(&[("error", code.name())]).inc();
    }
}
