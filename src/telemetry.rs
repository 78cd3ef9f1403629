//! Logs: one JSON object per line on standard output. DIDs and conversation ids appear at debug only, bodies and tokens never.

use tracing_subscriber::EnvFilter;

/// Starts logging, panics included. `filter` is in the syntax of `RUST_LOG`. Fails if it is malformed or logging was started
/// before.
pub fn start(filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let filter = EnvFilter::try_new(filter)?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        // What a panic says may quote values; where it happened does not.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked");
        tracing::debug!(%panic, "panicked");
    }));
    Ok(())
}
