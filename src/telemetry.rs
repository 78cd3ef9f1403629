//! Logs on standard output: one JSON object per line, or readable lines on a terminal. DIDs and conversation ids appear
//! at debug level only; bodies and tokens never appear.

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging, panics included. `filter` has the syntax of `RUST_LOG`. Fails if it is malformed or logging was
/// already started.
pub fn start(filter: &str) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let for_people = std::io::stdout().is_terminal();
    let lines = (!for_people).then(|| {
        tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false)
    });
    let for_people = for_people.then(|| tracing_subscriber::fmt::layer().compact().with_target(false));
    tracing_subscriber::registry()
        .with(EnvFilter::try_new(filter)?)
        .with(filter_fn(may_be_told))
        .with(lines)
        .with(for_people)
        .try_init()?;
    std::panic::set_hook(Box::new(|panic| {
        // A panic message may quote values; its location does not.
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "panicked");
        tracing::debug!(%panic, "panicked");
    }));
    Ok(())
}

/// Drops debug output of libraries, whatever the filter says: it contains the parameters of statements and the headers
/// of requests, and so bodies and tokens.
fn may_be_told(event: &Metadata<'_>) -> bool {
    event.target().starts_with("catbird_server") || *event.level() <= Level::INFO
}
