//! The spans of one request, or of a batch that works for several.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{SpanId, TraceId};

use super::Traces;
use super::export::Trace;

/// Most spans of one request, beside its own.
pub const MAX_SPANS: usize = 128;

/// Part of a request that has a span of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A stage of the request.
    Stage(&'static str),
    /// A transaction, with the name of its unit of work. The parts that begin before its end are inside it.
    Transaction(&'static str),
    /// An SQL statement.
    Statement(&'static str),
}

/// A span. `end` is `None` while it is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub part: Part,
    /// Index of the transaction that it is part of; `None` if it belongs to the request itself.
    pub parent: Option<usize>,
    pub start: Instant,
    pub end: Option<Instant>,
}

/// The spans of a request, in the order in which they began, and its outcome.
#[derive(Debug, Default)]
pub(super) struct Spans {
    pub spans: Vec<Span>,
    /// The open transaction.
    transaction: Option<usize>,
    /// Spans beyond [`MAX_SPANS`].
    pub left_out: usize,
    /// `None` if the client went away before it was answered.
    pub outcome: Option<Outcome>,
}

/// Answer to a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub at: Instant,
    pub status: u16,
    pub error: Option<&'static str>,
}

/// What is known of a request when it begins.
pub(super) struct Request {
    pub trace: TraceId,
    /// Span of the caller.
    pub parent: Option<SpanId>,
    pub is_sampled: bool,
    pub verb: &'static str,
    pub method: &'static str,
    pub id: String,
    pub began: Instant,
    /// The time of the clock when it began.
    pub at: SystemTime,
    pub traces: Traces,
}

/// The recording of a request or a batch. Cheap to clone; clones record together. When the last one is dropped, no work
/// is done for the request any more, and its spans are exported.
#[derive(Clone)]
pub struct Recording(Arc<Inner>);

struct Inner {
    spans: Mutex<Spans>,
    /// `None` for a batch, whose spans go to the requests of its commands.
    request: Option<Request>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(request) = self.request.take().filter(|request| request.is_sampled) else { return };
        let spans = std::mem::take(self.spans.get_mut().unwrap_or_else(PoisonError::into_inner));
        request.traces.clone().export(Trace { request, spans, end: Instant::now() });
    }
}

impl Recording {
    pub(super) fn of_request(request: Request) -> Self {
        Self(Arc::new(Inner { spans: Mutex::default(), request: Some(request) }))
    }

    /// Creates the recording of a batch.
    pub fn of_batch() -> Self {
        Self(Arc::new(Inner { spans: Mutex::default(), request: None }))
    }

    /// Returns the id of the request's trace as hex, whether or not it is sampled. `None` for a batch.
    pub fn trace_id(&self) -> Option<String> {
        self.0.request.as_ref().map(|request| request.trace.to_string())
    }

    /// False if the sampler has decided against the request.
    fn is_kept(&self) -> bool {
        self.0.request.as_ref().is_none_or(|request| request.is_sampled)
    }

    fn spans(&self) -> MutexGuard<'_, Spans> {
        // No code panics while it holds this lock.
        self.0.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a span, which ends when the value is dropped. Returns `None` if it is not kept.
    pub fn open(&self, part: Part) -> Option<OpenSpan> {
        if !self.is_kept() {
            return None;
        }
        let mut spans = self.spans();
        if spans.spans.len() >= MAX_SPANS {
            spans.left_out += 1;
            return None;
        }
        let (at, parent) = (spans.spans.len(), spans.transaction);
        spans.spans.push(Span { part, parent, start: Instant::now(), end: None });
        if matches!(part, Part::Transaction(_)) {
            spans.transaction = Some(at);
        }
        Some(OpenSpan { recording: self.clone(), at })
    }

    /// Notes the answer to the request: its HTTP status and the name of its error.
    pub fn answered(&self, status: u16, error: Option<&'static str>) {
        if self.is_kept() {
            self.spans().outcome = Some(Outcome { at: Instant::now(), status, error });
        }
    }

    /// Copies the spans of a batch that the request's command joined at `joined`, without what was before.
    pub fn take_over(&self, batch: &Recording, joined: Instant) {
        if !self.is_kept() {
            return;
        }
        let (batch, mut spans) = (batch.spans(), self.spans());
        // Where each span of the batch goes.
        let mut places = vec![None; batch.spans.len()];
        for (n, span) in batch.spans.iter().enumerate() {
            let end = span.end.unwrap_or_else(Instant::now);
            if end <= joined {
                continue;
            }
            if spans.spans.len() >= MAX_SPANS {
                spans.left_out += 1;
                continue;
            }
            places[n] = Some(spans.spans.len());
            let parent = span.parent.and_then(|parent| places[parent]);
            spans.spans.push(Span { parent, start: span.start.max(joined), end: Some(end), ..*span });
        }
        spans.left_out += batch.left_out;
    }
}

/// A span that ends when this value is dropped.
pub struct OpenSpan {
    recording: Recording,
    at: usize,
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let mut spans = self.recording.spans();
        let now = Instant::now();
        if let Some(span) = spans.spans.get_mut(self.at) {
            span.end = Some(now);
        }
        if spans.transaction == Some(self.at) {
            spans.transaction = None;
        }
    }
}
