use std::collections::BTreeSet;

use super::*;
use crate::metrics::{Page, Registry};

const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Returns traces that keep one request, whose spans nobody exports, with the page of their metrics.
fn stuck() -> (Traces, mpsc::Receiver<Message>, Page) {
    let mut registry = Registry::default();
    let metrics = TraceMetrics::register(&mut registry);
    let (queue, waiting) = mpsc::channel(1);
    (Traces::into(queue, Sampler::AlwaysOn, Clock::system(), metrics), waiting, Page::new(registry))
}

fn recording(traces: &Traces) -> Recording {
    traces.begin(None, "POST", "sendMessage", "an-id").unwrap()
}

/// Returns the spans of a request that has ended: what each is part of, by its index, and what it is.
fn spans(waiting: &mut mpsc::Receiver<Message>) -> Vec<(Option<usize>, Part)> {
    match waiting.try_recv() {
        Ok(Message::Trace(trace)) => trace.spans.spans.iter().map(|span| (span.parent, span.part)).collect(),
        _ => panic!("no request has ended"),
    }
}

#[test]
fn a_header_of_the_w3cs_form_names_the_callers_span() {
    let context = caller::parse(HEADER).unwrap();
    assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!((context.span_id().to_string(), context.is_sampled()), ("b7ad6b7169203331".to_owned(), true));
    assert!(context.is_remote());
    let with = |from: &str, to: &str| caller::parse(&HEADER.replacen(from, to, 1));
    assert!(!with("-01", "-00").unwrap().is_sampled());
    assert!(!with("-01", "-fe").unwrap().is_sampled(), "other flags are not known");
    // Later versions begin alike and may go on.
    assert!(
        with("00-", "01-").is_some() && caller::parse(&format!("{}-more", HEADER.replacen("00", "cc", 1))).is_some()
    );
}

#[test]
fn any_other_header_begins_a_trace_of_its_own() {
    let bad = [
        "",
        "00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0G",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c8031-9cb7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333é-1",
    ];
    for header in bad {
        assert!(caller::parse(header).is_none(), "{header}");
    }
    let (traces, _waiting, _) = stuck();
    let ids: BTreeSet<_> =
        bad.map(|header| traces.begin(Some(header), "GET", "getEpoch", "id").unwrap().trace_id()).into();
    assert_eq!(ids.len(), bad.len());
    assert_eq!(
        traces.begin(Some(HEADER), "GET", "getEpoch", "id").unwrap().trace_id().as_deref(),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
}

#[test]
fn what_begins_before_the_end_of_a_transaction_is_part_of_it() {
    let (traces, mut waiting, _) = stuck();
    let recording = recording(&traces);
    drop(recording.open(Part::Stage("auth")));
    let transaction = recording.open(Part::Transaction("sendMessage"));
    let (first, second) = (recording.open(Part::Statement("a")), recording.open(Part::Statement("b")));
    drop((first, second, transaction));
    drop(recording.open(Part::Stage("encode")));
    drop(recording);
    let expected = [
        (None, Part::Stage("auth")),
        (None, Part::Transaction("sendMessage")),
        (Some(1), Part::Statement("a")),
        (Some(1), Part::Statement("b")),
        (None, Part::Stage("encode")),
    ];
    assert_eq!(spans(&mut waiting), expected);
}

#[test]
fn a_request_takes_over_what_its_batch_did_after_it_joined() {
    let (traces, mut waiting, _) = stuck();
    let (recording, batch) = (recording(&traces), Recording::of_batch());
    let queue = recording.open(Part::Stage("queue"));
    let transaction = batch.open(Part::Transaction("sendMessage.batch"));
    drop(batch.open(Part::Stage("connection")));
    let joined = Instant::now();
    drop(queue);
    drop(batch.open(Part::Statement("messages/append")));
    drop(transaction);
    recording.take_over(&batch, joined);
    drop(recording);
    let Ok(Message::Trace(trace)) = waiting.try_recv() else { panic!("the request has ended") };
    let spans = &trace.spans.spans;
    let parts: Vec<_> = spans.iter().map(|span| (span.parent, span.part)).collect();
    let expected = [
        (None, Part::Stage("queue")),
        (None, Part::Transaction("sendMessage.batch")),
        (Some(1), Part::Statement("messages/append")),
    ];
    assert_eq!(parts, expected);
    assert_eq!(spans[1].start, joined, "not before");
}

#[test]
fn a_request_has_a_limited_number_of_spans() {
    let (traces, mut waiting, _) = stuck();
    let recording = recording(&traces);
    (0..recording::MAX_SPANS + 7).for_each(|_| drop(recording.open(Part::Statement("a"))));
    drop(recording);
    let Ok(Message::Trace(trace)) = waiting.try_recv() else { panic!("the request has ended") };
    assert_eq!((trace.spans.spans.len(), trace.spans.left_out), (recording::MAX_SPANS, 7));
}

#[test]
fn requests_beyond_the_queue_are_lost_and_counted() {
    let (traces, mut waiting, page) = stuck();
    drop(recording(&traces));
    let beyond = recording(&traces);
    drop(beyond.open(Part::Stage("auth")));
    drop(beyond);
    assert!(spans(&mut waiting).is_empty());
    assert!(waiting.try_recv().is_err(), "the second request is lost as a whole");
    assert!(page.render().unwrap().contains("trace_spans_lost_total{reason=\"queue_full\"} 2\n"));
}

#[test]
fn a_request_that_is_not_sampled_records_nothing() {
    let (traces, mut waiting, _) = stuck();
    let off = Traces(traces.0.map(|inner| {
        Arc::new(Inner {
            queue: inner.queue.clone(),
            sampler: sampler("parentbased_always_off", 1.0),
            ids: RandomIdGenerator::default(),
            clock: Clock::system(),
            metrics: inner.metrics.clone(),
        })
    }));
    let recording = recording(&off);
    assert!(recording.open(Part::Stage("auth")).is_none() && recording.trace_id().is_some());
    recording.take_over(&Recording::of_batch(), Instant::now());
    drop(recording);
    assert!(waiting.try_recv().is_err());
}
