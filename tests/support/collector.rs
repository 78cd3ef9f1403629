//! A collector of traces: real HTTP over TCP, which decodes OTLP and keeps what it is sent.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::receiver::{self, Answer, Delivery};

/// Maximum time for anything that happens by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running collector. It ends with the runtime that started it.
#[derive(Clone)]
pub struct Collector {
    port: u16,
    answer: Arc<Mutex<Answer>>,
    exports: watch::Sender<Vec<Delivery>>,
}

/// A span as it arrived. Ids are hex; those of a missing parent are empty.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    /// In nanoseconds since 1970.
    pub start: u64,
    pub end: u64,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
    /// Attributes of the process.
    pub resource: BTreeMap<String, String>,
}

impl Collector {
    /// Starts a collector that takes everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let collector =
            Self { port, answer: Arc::new(Mutex::new(Answer::Status(200))), exports: watch::Sender::default() };
        let accepting = collector.clone();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let collector = accepting.clone();
                tokio::spawn(async move {
                    let Some(export) = receiver::read(&mut connection).await else { return };
                    let answer = collector.answer.lock().unwrap().clone();
                    collector.exports.send_modify(|exports| exports.push(export));
                    receiver::reply(connection, answer).await;
                });
            }
        });
        collector
    }

    /// Returns the value of OTEL_EXPORTER_OTLP_ENDPOINT.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Sets the answer to exports.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    /// Returns the exports so far, as they came.
    pub fn exports(&self) -> Vec<Delivery> {
        self.exports.borrow().clone()
    }

    /// Waits for an export.
    pub async fn has_export(&self) {
        let mut there = self.exports.subscribe();
        let any = there.wait_for(|exports| !exports.is_empty());
        tokio::time::timeout(PATIENCE, any).await.expect("an export came").unwrap();
    }

    /// Returns all spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.exports().iter().flat_map(spans).collect()
    }

    /// Returns the spans of a trace, in the order in which they began.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        let mut spans: Vec<Span> = self.spans().into_iter().filter(|span| span.trace == id).collect();
        spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        spans
    }
}

fn spans(export: &Delivery) -> Vec<Span> {
    assert_eq!((&*export.path, &*export.headers["content-type"]), ("/v1/traces", "application/x-protobuf"));
    let request = ExportTraceServiceRequest::decode(&*export.body).unwrap();
    let mut all = Vec::new();
    for group in request.resource_spans {
        let resource = attributes(&group.resource.unwrap().attributes);
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert_eq!((span.events.len(), span.links.len(), &*span.trace_state), (0, 0, ""));
            all.push(Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                failed: span.status.is_some_and(|status| status.code == 2),
                attributes: attributes(&span.attributes),
                resource: resource.clone(),
                name: span.name,
            });
        }
    }
    all
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Option<AnyValue>| match value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("an attribute is {other:?}"),
    };
    let attributes: HashMap<_, _> = list.iter().map(|pair| (pair.key.clone(), text(&pair.value))).collect();
    assert_eq!(attributes.len(), list.len(), "each once");
    attributes.into_iter().collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
