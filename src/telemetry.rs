//! Logs: one JSON object per line on standard output. DIDs and conversation ids appear at debug only, bodies and tokens never.

use tracing_subscriber::EnvFilter;

/// Starts logging. `filter` is in the syntax of `RUST_LOG`. Fails if it is malformed or logging was started before.
pub fn start(filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .try_init()
}
