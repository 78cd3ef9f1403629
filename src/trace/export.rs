//! The task that exports spans: a few hundred at a time, or after a second.

use std::time::Duration;
use std::time::Instant;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use crate::net::client;

use super::metrics::{Loss, TraceMetrics};
use super::recording::{Outcome, Part, Request, Spans};
use super::{Settings, TraceError};

/// Number of spans from which on they are exported at once.
const BATCH_SPANS: usize = 512;
/// Longest time for which spans wait for others to be exported with.
const DELAY: Duration = Duration::from_secs(1);
/// Time for one export, repetitions included.
pub(super) const EXPORT_TIME: Duration = Duration::from_secs(10);
/// Time between two warnings that spans are lost.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
const SERVICE: &str = env!("CARGO_PKG_NAME");
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the task receives.
pub(super) enum Message {
    Trace(Box<Trace>),
    /// Exports everything before it, then answers.
    Flush(oneshot::Sender<()>),
}

/// The spans of a request at its end.
pub(super) struct Trace {
    pub request: Request,
    pub spans: Spans,
    pub end: Instant,
}

impl Trace {
    /// Number of its spans.
    pub(super) fn len(&self) -> usize {
        1 + self.spans.spans.len()
    }

    /// Returns its spans in the exporter's form, the request's own first.
    fn into_spans(self, ids: &RandomIdGenerator, scope: &InstrumentationScope) -> Vec<SpanData> {
        let Trace { request, spans: Spans { spans, left_out, outcome, .. }, end } = self;
        let time = |instant: Instant| request.at + instant.saturating_duration_since(request.began);
        let span = |id, parent, name: String, start, end| SpanData {
            span_context: SpanContext::new(request.trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time: time(start),
            end_time: time(end),
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: scope.clone(),
        };
        let root = ids.new_span_id();
        let span_ids: Vec<SpanId> = spans.iter().map(|_| ids.new_span_id()).collect();
        let answered = outcome.map_or(end, |outcome| outcome.at);
        let mut own =
            span(root, request.parent.unwrap_or(SpanId::INVALID), request.method.to_owned(), request.began, answered);
        own.parent_span_is_remote = request.parent.is_some();
        own.span_kind = SpanKind::Server;
        (own.attributes, own.status) = describe(&request, outcome, left_out);
        let parts = spans.iter().zip(&span_ids).map(|(part, id)| {
            let parent = part.parent.map_or(root, |parent| span_ids[parent]);
            let (name, kind, attributes) = name(part.part);
            let data = span(*id, parent, name, part.start, part.end.unwrap_or(end));
            SpanData { span_kind: kind, attributes, ..data }
        });
        std::iter::once(own).chain(parts).collect()
    }
}

/// Returns the attributes and the status of a request's own span, by the semantic conventions for HTTP servers.
fn describe(request: &Request, outcome: Option<Outcome>, left_out: usize) -> (Vec<KeyValue>, Status) {
    let mut attributes = vec![
        KeyValue::new("http.request.method", request.verb),
        KeyValue::new("catbird.request_id", request.id.clone()),
    ];
    let error = match outcome {
        Some(Outcome { status, error, .. }) => {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            error
        }
        None => Some("ClientClosedRequest"),
    };
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    if left_out > 0 {
        attributes.push(KeyValue::new("catbird.spans_left_out", i64::try_from(left_out).unwrap_or(i64::MAX)));
    }
    // A refusal is no failure of the server.
    let failed = outcome.is_some_and(|outcome| outcome.status >= 500);
    (attributes, if failed { Status::error("") } else { Status::Unset })
}

fn name(part: Part) -> (String, SpanKind, Vec<KeyValue>) {
    match part {
        Part::Stage(stage) => (stage.to_owned(), SpanKind::Internal, Vec::new()),
        Part::Transaction(unit) => (format!("transaction {unit}"), SpanKind::Internal, Vec::new()),
        Part::Statement(statement) => {
            let attributes =
                [KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.query.summary", statement)];
            (format!("statement {statement}"), SpanKind::Client, attributes.into())
        }
    }
}

/// Creates the exporter. It connects to the collector by HTTP, with its spans in protobuf.
pub(super) fn exporter(settings: &Settings) -> Result<SpanExporter, TraceError> {
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client::builder(EXPORT_TIME).build()?)
        .with_endpoint(format!("{}/v1/traces", settings.endpoint.trim_end_matches('/')))
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(EXPORT_TIME)
        .with_headers(settings.headers.clone())
        .build()?;
    let resource = Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes([
            KeyValue::new("service.version", VERSION),
            KeyValue::new("service.instance.id", ulid::Ulid::new().to_string()),
        ])
        .with_attributes(settings.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone())))
        .with_service_name(settings.service_name.clone())
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// Exports the spans that arrive, until no sender is left.
pub(super) async fn run(exporter: SpanExporter, mut queue: mpsc::Receiver<Message>, metrics: TraceMetrics) {
    let (ids, scope) =
        (RandomIdGenerator::default(), InstrumentationScope::builder(SERVICE).with_version(VERSION).build());
    let mut export = Export { exporter, metrics, lost: 0, warned: None };
    let (mut spans, mut due) = (Vec::new(), None);
    loop {
        let received = match due {
            None => Ok(queue.recv().await),
            Some(due) => timeout_at(due, queue.recv()).await,
        };
        let flushed = match received {
            Ok(Some(Message::Trace(trace))) => {
                spans.extend(trace.into_spans(&ids, &scope));
                due.get_or_insert_with(|| tokio::time::Instant::now() + DELAY);
                if spans.len() < BATCH_SPANS {
                    continue;
                }
                None
            }
            Ok(Some(Message::Flush(flushed))) => Some(flushed),
            Ok(None) => return,
            Err(_) => None,
        };
        due = None;
        if !spans.is_empty() {
            export.export(std::mem::take(&mut spans)).await;
        }
        flushed.map(|flushed| flushed.send(()));
    }
}

struct Export {
    exporter: SpanExporter,
    metrics: TraceMetrics,
    /// Spans lost since the last warning.
    lost: usize,
    warned: Option<Instant>,
}

impl Export {
    async fn export(&mut self, spans: Vec<SpanData>) {
        let count = spans.len();
        let cause = match timeout(EXPORT_TIME, self.exporter.export(spans)).await {
            Ok(Ok(())) => {
                self.metrics.exported(count);
                return;
            }
            Ok(Err(cause)) => cause.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        self.metrics.lost(Loss::NotTaken, count);
        self.lost += count;
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARNING_INTERVAL) {
            tracing::warn!(spans = self.lost, cause, "the collector of traces took no spans; they are lost");
            (self.lost, self.warned) = (0, Some(Instant::now()));
        }
    }
}
