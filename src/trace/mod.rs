//! Traces: the spans of requests, for a collector that speaks OTLP (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! A request records its spans while it is processed ([`Recording`]). At its end they go through a bounded queue to a task
//! that exports them, so a collector that is slow or away delays no request: its spans are lost, and counted. Without a
//! collector nothing is recorded.
//!
//! No value of a request can get into a span. The names are constants of the program, and the attributes are the status, the
//! name of the error, the HTTP method and the id that the server gave the request. The trace id, and the id of the span
//! that a request belongs to, may come from its caller (`traceparent`, W3C Trace Context).

mod caller;
mod export;
mod metrics;
mod recording;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry::trace::{SpanKind, TraceContextExt, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, ShouldSample};
use tokio::sync::{mpsc, oneshot};

use crate::background::{Background, tasks};
use crate::clock::Clock;

use export::Message;
use recording::Request;

pub use metrics::TraceMetrics;
pub use recording::{OpenSpan, Part, Recording};

/// Most requests whose spans wait to be exported.
pub const MAX_WAITING: usize = 2_048;
/// Time in which [`Traces::flush`] exports what waits.
pub const FLUSH_TIME: Duration = Duration::from_secs(3);

/// Settings of the exporter and of the sampler.
#[derive(Clone)]
pub struct Settings {
    /// Base URL of the collector, to which the exporter appends `/v1/traces`.
    pub endpoint: String,
    /// Headers of each export, which may hold a secret.
    pub headers: HashMap<String, String>,
    pub sampler: Sampler,
    pub service_name: String,
    /// Further attributes of this process.
    pub resource: HashMap<String, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// Names of the samplers, as OpenTelemetry has them.
pub const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// Returns the sampler of one of the [`SAMPLERS`]; `ratio` is the share of requests that it samples, if it takes one.
pub fn sampler(name: &str, ratio: f64) -> Sampler {
    let root = match name.trim_start_matches("parentbased_") {
        "always_off" => Sampler::AlwaysOff,
        "traceidratio" => Sampler::TraceIdRatioBased(ratio),
        _ => Sampler::AlwaysOn,
    };
    if name.starts_with("parentbased_") { Sampler::ParentBased(Box::new(root)) } else { root }
}

/// The exporter cannot be built from its settings.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("the exporter of traces cannot be used: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    #[error("the exporter of traces has no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Begins the recordings of requests, and exports them. Cheap to clone.
#[derive(Clone)]
pub struct Traces(Option<Arc<Inner>>);

struct Inner {
    queue: mpsc::Sender<Message>,
    sampler: Sampler,
    ids: RandomIdGenerator,
    clock: Clock,
    metrics: TraceMetrics,
}

impl Traces {
    /// Starts the export. Without settings nothing is recorded.
    pub fn new(
        settings: Option<&Settings>,
        clock: Clock,
        metrics: TraceMetrics,
        background: &Background,
    ) -> Result<Self, TraceError> {
        let Some(settings) = settings else { return Ok(Self(None)) };
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        background.start(&tasks::TRACE_EXPORT, export::run(export::exporter(settings)?, waiting, metrics.clone()));
        Ok(Self::into(queue, settings.sampler.clone(), clock, metrics))
    }

    fn into(queue: mpsc::Sender<Message>, sampler: Sampler, clock: Clock, metrics: TraceMetrics) -> Self {
        Self(Some(Arc::new(Inner { queue, sampler, ids: RandomIdGenerator::default(), clock, metrics })))
    }

    /// Begins the recording of a request for a method, which continues the trace of the caller if `traceparent` is valid.
    /// `verb` is its HTTP method and `id` its request id. Returns `None` if there is no collector.
    pub fn begin(
        &self,
        traceparent: Option<&str>,
        verb: &'static str,
        method: &'static str,
        id: &str,
    ) -> Option<Recording> {
        let inner = self.0.as_ref()?;
        let caller = traceparent.and_then(caller::parse);
        let trace: TraceId = caller.as_ref().map_or_else(|| inner.ids.new_trace_id(), |caller| caller.trace_id());
        let parent = caller.as_ref().map(|caller| caller.span_id());
        let context = caller.map(|caller| Context::new().with_remote_span_context(caller));
        let sampled = inner.sampler.should_sample(context.as_ref(), trace, method, &SpanKind::Server, &[], &[]);
        Some(Recording::of_request(Request {
            trace,
            parent,
            is_sampled: sampled.decision == SamplingDecision::RecordAndSample,
            verb,
            method,
            id: id.to_owned(),
            began: Instant::now(),
            at: inner.clock.now().into(),
            traces: self.clone(),
        }))
    }

    /// Queues the spans of a request for export, or drops all of them.
    fn export(&self, trace: export::Trace) {
        let Some(inner) = &self.0 else { return };
        let spans = trace.len();
        if inner.queue.try_send(Message::Trace(Box::new(trace))).is_err() {
            inner.metrics.lost(metrics::Loss::QueueFull, spans);
        }
    }

    /// Exports what waits, for at most [`FLUSH_TIME`].
    pub async fn flush(&self) {
        let Some(inner) = &self.0 else { return };
        let exported = async {
            let (done, exported) = oneshot::channel();
            let _ = inner.queue.send(Message::Flush(done)).await;
            let _ = exported.await;
        };
        if tokio::time::timeout(FLUSH_TIME, exported).await.is_err() {
            tracing::warn!("the last spans could not be exported in time and are lost");
        }
    }
}
