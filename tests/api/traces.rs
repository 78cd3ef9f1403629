//! Traces: the spans of a request reach the collector as one tree, under the span of its caller. They contain nothing of
//! the request, and a collector that is slow or away delays nobody.

use std::time::{Duration, Instant};

use catbird_client::persona::Persona;
use catbird_client::xrpc::{Reply, base64_text, bytes_value, nsid};
use catbird_server::trace::FLUSH_TIME;
use catbird_testkit::app::TestApp;
use catbird_testkit::cluster::database;
use catbird_testkit::collector::{Collector, Span};
use catbird_testkit::fleet::{Mode, Replica};
use catbird_testkit::receiver::Answer;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::*;

/// Ids of the caller's trace and span, as the W3C's specification has them.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Maximum time until spans are there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Calls a procedure within a trace of the caller.
async fn ask_within(caller: &Persona, method: &str, body: &Value, traceparent: &str) -> Reply {
    let (xrpc, nsid) = (&caller.xrpc, nsid(method));
    let request = xrpc.http.post(xrpc.url(&nsid, &[])).json(body).bearer_auth(xrpc.token(&nsid));
    let request = request.header("traceparent", traceparent).header("tracestate", "vendor=told-by-the-caller");
    xrpc.send(&nsid, request).await.unwrap()
}

/// Returns the value of `traceparent`, with these flags.
fn traceparent(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{CALLER}-{flags}")
}

/// Returns the names of the spans below one, each on a line, indented by its depth.
fn tree(spans: &[Span], parent: &str, depth: usize) -> String {
    let children = spans.iter().filter(|span| span.parent == parent);
    let line = |span: &Span| format!("{}{}\n{}", "  ".repeat(depth), span.name, tree(spans, &span.id, depth + 1));
    children.map(line).collect()
}

/// Returns the spans that were exported, once they are enough: those of a request are handed over when the last work for it has ended, which
/// may be after the reply.
async fn exported(app: &TestApp, collector: &Collector, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let begun = Instant::now();
    loop {
        app.app.traces.flush().await;
        let spans = collector.spans();
        if enough(&spans) {
            return spans;
        }
        assert!(begun.elapsed() < PATIENCE, "{spans:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the spans of a trace, once they are there.
async fn trace(app: &TestApp, collector: &Collector, id: &str) -> Vec<Span> {
    exported(app, collector, |spans| spans.iter().any(|span| span.trace == id)).await;
    collector.trace(id)
}

/// Returns the value of a metric, which is the beginning of its line; 0 if it is not there.
async fn metric(base: &str, line: &str) -> u64 {
    let page = reqwest::get(format!("{base}/metrics")).await.unwrap().text().await.unwrap();
    page.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok()).unwrap_or(0)
}

async fn traced(collector: &Collector, actors: &str, more: &[(&str, &str)]) -> TestApp {
    let url = collector.url();
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*url), ("ENABLE_ACTOR_SYSTEM", actors)];
    start(&[&settings, more].concat()).await
}

/// The spans of a message that an own batch writes.
const SEND: &str = "\
sendMessage
  auth
  parse
  spend
  queue
  transaction sendMessage.batch
    connection
    statement tx/take
    statement messages/send_message
  encode
";

#[tokio::test(flavor = "multi_thread")]
async fn a_send_is_one_trace_from_its_caller_to_its_statements() {
    tokio::join!(sends("false"), sends("true"));
}

async fn sends(actors: &str) {
    let collector = Collector::start().await;
    let resource = ("OTEL_RESOURCE_ATTRIBUTES", "host.name=here, deployment.environment.name=tests");
    let app = traced(&collector, actors, &[resource, ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20key")]).await;
    let members = app.conversation(2).await;
    ok(ask(&members[0], "sendMessage", &message(&members[0], b"before")).await);
    let within = traceparent(TRACE, "01");
    let reply = ok(ask_within(&members[0], "sendMessage", &message(&members[0], b"hello"), &within).await);
    let id = reply.headers["x-request-id"].to_str().unwrap().to_owned();
    let spans = trace(&app, &collector, TRACE).await;
    assert_eq!(tree(&spans, CALLER, 0), SEND, "{spans:#?}");
    let own = &spans[0];
    let expected = [("http.request.method", "POST"), ("http.response.status_code", "200"), ("catbird.request_id", &id)];
    assert_eq!(own.attributes, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    for span in &spans {
        assert!(own.start <= span.start && span.start <= span.end && span.end <= own.end, "{span:?} in {own:?}");
        assert!(!span.failed);
    }
    let known = |name: &str| own.resource.get(name).map(String::as_str);
    assert_eq!((known("service.name"), known("host.name")), (Some("catbird-server"), Some("here")));
    assert!(known("service.instance.id").is_some() && known("deployment.environment.name") == Some("tests"));
    assert!(collector.exports().iter().all(|export| export.headers["x-key"] == "a key"));

    // A refusal has its name, and is no failure of the server.
    let stale = with(&message(&members[1], b"late"), json!({ "epoch": 0 }));
    let other = TRACE.replace('4', "5");
    refused(ask_within(&members[1], "sendMessage", &stale, &traceparent(&other, "01")).await, 409, "EpochMismatch");
    let lost = trace(&app, &collector, &other).await;
    let said = |name: &str| lost[0].attributes.get(name).map(String::as_str);
    assert_eq!((said("http.response.status_code"), said("error.type")), (Some("409"), Some("EpochMismatch")));
    assert!(!lost[0].failed && lost.iter().any(|span| span.name == "queue"), "{lost:#?}");
    let begun = Instant::now();
    while metric(&app.base, "trace_spans_exported_total").await != collector.spans().len() as u64 {
        assert!(begun.elapsed() < PATIENCE, "other spans are counted than were taken");
    }
    app.finish().await;
}

/// Batches that were committed.
const BATCHES: &str = "database_transactions_total{name=\"sendMessage.batch\",outcome=\"committed\"}";

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_share_a_batch_have_the_spans_of_its_transaction_each() {
    let collector = Collector::start().await;
    let app = traced(&collector, "false", &[]).await;
    let members = app.conversation(2).await;
    let before = metric(&app.base, BATCHES).await;
    let mut db = app.database.connect().await;
    let held = db.transaction().await.unwrap();
    held.execute("select from conversations where id = $1 for update", &[&convo(&members[0])]).await.unwrap();
    let ids: Vec<String> = (1..=8).map(|n| format!("{n:032x}")).collect();
    let messages: Vec<_> = ids.iter().map(|id| message(&members[0], id.as_bytes())).collect();
    let sending = ids.iter().zip(&messages).map(|(id, body)| {
        let within = traceparent(id, "01");
        let sender = &members[0];
        async move { ok(ask_within(sender, "sendMessage", body, &within).await) }
    });
    let release = async {
        let watcher = app.database.connect().await;
        let waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while watcher.query(waiting, &[]).await.unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        held.commit().await.unwrap();
    };
    tokio::join!(futures_util::future::join_all(sending), release);
    for id in &ids {
        let spans = trace(&app, &collector, id).await;
        let last = spans.iter().rfind(|span| span.name.starts_with("transaction")).unwrap();
        let inside: Vec<_> = spans.iter().filter(|span| span.parent == last.id).collect();
        assert!(inside.iter().any(|span| span.name.starts_with("statement messages/")), "{spans:#?}");
        assert!(spans.iter().all(|span| span.start >= spans[0].start), "{spans:#?}");
    }
    let batches = metric(&app.base, BATCHES).await - before;
    assert!(batches < ids.len() as u64, "no two of them shared a transaction");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_has_nothing_of_the_request() {
    let collector = Collector::start().await;
    let app = traced(&collector, "false", &[]).await;
    let members = app.conversation(2).await;
    let ciphertext = b"what I have to say is for you alone";
    let good = json!({
        "convoId": convo(&members[0]), "ciphertext": bytes_value(ciphertext), "epoch": 1,
        "embedUri": "https://example.com/for-your-eyes",
    });
    let reply = ok(ask_within(&members[0], "sendMessage", &good, &traceparent(TRACE, "01")).await);
    let bad = [json!({ "epoch": "this is no epoch" }), json!({ "epoch": 9 }), json!({ "convoId": "no-such-convo" })];
    for bad in bad {
        assert_ne!(ask(&members[0], "sendMessage", &with(&good, bad)).await.status, 200);
    }
    ok(get(&members[1], "getMessages", &[("convoId", &convo(&members[0]))]).await);
    let xrpc = &members[0].xrpc;
    let token = xrpc.token(&nsid("getConvos"));
    let url = xrpc.url(&nsid("noSuchMethodOfAlices"), &[("q", "asked-for".to_owned())]);
    xrpc.http.get(url).bearer_auth(&token).header("x-request-id", "an-id-of-mine").send().await.unwrap();
    // An invalid header begins another trace.
    ok(ask_within(&members[0], "sendMessage", &message(&members[0], b"x"), "00-not-a-trace-01").await);
    let methods = ["createConvo", "addMembers", "sendMessage", "getMessages", "getWelcome", "unknown"];
    let all = |spans: &[Span]| methods.iter().all(|method| spans.iter().any(|span| span.name == *method));
    exported(&app, &collector, all).await;
    let mut secrets = vec![
        convo(&members[0]),
        members[0].did().to_owned(),
        members[1].did().to_owned(),
        members[0].did().trim_start_matches("did:plc:").to_owned(),
        reply.string("messageId").unwrap().to_owned(),
        base64_text(ciphertext)[..40].to_owned(),
        token[..60].to_owned(),
        token.rsplit('.').next().unwrap().to_owned(),
    ];
    let known =
        ["what I have", "example.com", "no-such-convo", "this is no epoch", "told-by-the-caller", "noSuchMethod"];
    secrets
        .extend([&known[..], &["asked-for", "an-id-of-mine", "not-a-trace"]].concat().into_iter().map(str::to_owned));
    for export in collector.exports() {
        for secret in &secrets {
            let found = export.body.windows(secret.len()).any(|bytes| bytes == secret.as_bytes());
            assert!(!found, "an export has {secret:.60}");
        }
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sampler_and_the_flag_of_the_caller_decide() {
    let collector = Collector::start().await;
    // (sampler, share, flag of the caller, is traced)
    let cases = [
        ("parentbased_always_on", "1", Some("00"), false),
        ("parentbased_always_off", "1", Some("01"), true),
        ("parentbased_always_off", "1", None, false),
        ("parentbased_traceidratio", "0", None, false),
        ("traceidratio", "0", Some("01"), false),
        ("always_off", "1", Some("01"), false),
        ("always_on", "1", Some("00"), true),
    ];
    let of_case = async |n: usize, (sampler, share, flag, is_traced): (&str, &str, Option<&str>, bool)| {
        let settings = [("OTEL_TRACES_SAMPLER", sampler), ("OTEL_TRACES_SAMPLER_ARG", share)];
        let name = format!("of-case-{n}");
        let app = traced(&collector, "false", &[&settings[..], &[("OTEL_SERVICE_NAME", &name)]].concat()).await;
        let caller = app.persona();
        let header = flag.map_or_else(|| "none".to_owned(), |flag| traceparent(TRACE, flag));
        let xrpc = &caller.xrpc;
        let request = xrpc.http.get(xrpc.url(&nsid("getConvos"), &[])).bearer_auth(xrpc.token(&nsid("getConvos")));
        ok(xrpc.send(&nsid("getConvos"), request.header("traceparent", header)).await.unwrap());
        let known = |spans: &[Span]| spans.iter().any(|span| span.resource["service.name"] == name);
        let spans = exported(&app, &collector, |spans| !is_traced || known(spans)).await;
        assert_eq!(known(&spans), is_traced, "{sampler} {share} {flag:?}");
        app.finish().await;
    };
    futures_util::future::join_all(cases.into_iter().enumerate().map(|(n, case)| of_case(n, case))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_costs_spans_and_no_request() {
    let silent = Collector::start().await;
    silent.answer(Answer::Hang);
    let refusing = Collector::start().await;
    refusing.answer(Answer::Status(400));
    let away = "http://127.0.0.1:1".to_owned();
    let sends = async |url: String| {
        let app = start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]).await;
        let members = app.conversation(1).await;
        for n in 0_u8..20 {
            ok(ask(&members[0], "sendMessage", &message(&members[0], &[n])).await);
        }
        app
    };
    let counted = async |app: TestApp| {
        app.app.traces.flush().await;
        assert!(metric(&app.base, "trace_spans_lost_total{reason=\"not_taken\"}").await > 20);
        assert_eq!(metric(&app.base, "trace_spans_exported_total").await, 0);
        app.finish().await;
    };
    let drained = async |app: TestApp| {
        silent.has_export().await;
        let draining = Instant::now();
        app.finish().await;
        draining.elapsed()
    };
    let (away, refusing, silent) = tokio::join!(sends(away), sends(refusing.url()), sends(silent.url()));
    let ((), (), took) = tokio::join!(counted(away), counted(refusing), drained(silent));
    // An export has ten seconds otherwise.
    assert!(took >= FLUSH_TIME && took < FLUSH_TIME + Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_exports_the_last_spans_and_the_log_names_the_trace() {
    let (collector, database) = (Collector::start().await, database().await);
    let mut replica =
        Replica::start(Mode::Advisory, &database.url, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())]).await;
    let caller = Persona::new(catbird_testkit::app::validated(&replica.base, &catbird_client::random_did()));
    let group = json!({ "groupId": "5a".repeat(32), "cipherSuite": caller.mls.suite_name() });
    let reply = ok(ask_within(&caller, "createConvo", &group, &traceparent(TRACE, "01")).await);
    let id = reply.headers["x-request-id"].to_str().unwrap().to_owned();
    replica.signal(Signal::SIGTERM);
    assert_eq!(replica.exit_code().await, Some(0));
    let spans = collector.trace(TRACE);
    assert_eq!(tree(&spans, CALLER, 0).lines().next(), Some("createConvo"), "{spans:#?}");
    assert_eq!(spans[0].attributes["catbird.request_id"], id);
    let lines: Vec<Value> = replica.log().iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let answered = lines.iter().find(|line| line["message"] == "answered" && line["span"]["id"] == *id).unwrap();
    assert_eq!(answered["span"]["trace_id"], TRACE);
}
