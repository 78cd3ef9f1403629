//! The protocol around the methods: verbs, names, request ids, documents, and a handler that panics.

use std::collections::BTreeSet;
use std::sync::Arc;

use actix_web::web::{self, Data, Payload};
use actix_web::{HttpRequest, HttpServer};
use catbird_client::random_did;
use catbird_client::xrpc::{Claims, Token, Xrpc};
use catbird_server::api::ROUTES;
use catbird_server::app::App;
use catbird_server::error::{Code, Error};
use catbird_server::lexicons;
use catbird_server::xrpc::{self, Caller, Endpoint, Kind, Route};
use catbird_testkit::app::{SECRET, SERVICE_DID, TestApp};
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::harness::*;

any_serializer! {
    a_method_called_with_the_wrong_verb_is_405_and_names_the_right_one;
    an_unknown_method_is_501_and_any_other_path_404;
    every_reply_has_a_request_id_of_the_servers_own;
    replies_are_not_kept_by_caches;
    every_document_is_served_as_it_stands_and_the_index_lists_them_all;
    a_panic_is_500_and_its_worker_goes_on;
    head_is_get_without_the_body_and_changes_nothing;
    the_version_is_where_other_services_have_it;
    a_body_with_another_content_type_is_refused;
    a_token_past_its_time_calls_for_a_new_one_with_the_same_request;
}

async fn head_is_get_without_the_body_and_changes_nothing(app: &TestApp) {
    let mut members = app.conversation(2).await;
    members[0].send("unread").await.unwrap();
    let http = &members[1].xrpc.http;
    for page in [
        "/.well-known/did.json",
        "/lexicons",
        "/lexicons/blue.catbird.mls.getEpoch.json",
        "/openapi.json",
        "/health",
        "/metrics",
    ] {
        let url = format!("{}{page}", app.base);
        let (get, head) = (http.get(&url).send().await.unwrap(), http.head(&url).send().await.unwrap());
        assert_eq!(
            (head.status().as_u16(), &head.headers()["content-type"]),
            (200, &get.headers()["content-type"]),
            "{page}"
        );
        assert_eq!(head.text().await.unwrap(), "");
        let refused = http.post(&url).send().await.unwrap();
        assert_eq!(
            (refused.status().as_u16(), refused.headers()["allow"].as_bytes()),
            (405, &b"GET, HEAD"[..]),
            "{page}"
        );
    }
    let before = contents(app).await;
    for (method, parameters) in [("getMessages", true), ("getEpoch", true), ("getConvos", false)] {
        let nsid = format!("blue.catbird.mls.{method}");
        let parameters: Vec<_> = parameters.then(|| ("convoId", convo(&members[1]))).into_iter().collect();
        let url = members[1].xrpc.url(&nsid, &parameters);
        let head = http.head(url).bearer_auth(members[1].xrpc.token(&nsid)).send().await.unwrap();
        assert_eq!(
            (head.status().as_u16(), head.headers()["content-type"].as_bytes()),
            (200, &b"application/json"[..])
        );
        let length: usize = head.headers()["content-length"].to_str().unwrap().parse().unwrap();
        assert!(length > 2 && head.text().await.unwrap().is_empty(), "{method}: {length}");
    }
    assert_eq!(contents(app).await, before, "nothing of it was read");
}

async fn the_version_is_where_other_services_have_it(app: &TestApp) {
    let http = &app.persona().xrpc.http.clone();
    let url = format!("{}/xrpc/_health", app.base);
    let reply: Value = http.get(&url).send().await.unwrap().json().await.unwrap();
    assert_eq!(reply, json!({ "version": env!("CARGO_PKG_VERSION") }));
    assert_eq!(http.head(&url).send().await.unwrap().status(), 200);
    assert_eq!(http.post(&url).send().await.unwrap().status(), 501);
}

async fn a_body_with_another_content_type_is_refused(app: &TestApp) {
    let alice = app.persona();
    let nsid = "blue.catbird.mls.getSubscriptionTicket";
    for (said, status) in [
        (Some("text/plain"), 400),
        (Some("application/cbor"), 400),
        (Some("application/json; charset=utf-8"), 200),
        (Some("application/x-www-form-urlencoded"), 200),
        (None, 200),
    ] {
        for body in ["{}", ""] {
            let mut request = alice.xrpc.http.post(alice.xrpc.url(nsid, &[])).bearer_auth(alice.xrpc.token(nsid));
            if let Some(said) = said {
                request = request.header("content-type", said);
            }
            let reply = alice.xrpc.send(nsid, request.body(body)).await.unwrap();
            assert_eq!(reply.status, status, "{said:?}: {reply}");
            assert!(status == 200 || reply.string("message").unwrap().contains("Content-Type"), "{reply}");
        }
    }
}

async fn a_token_past_its_time_calls_for_a_new_one_with_the_same_request(app: &TestApp) {
    let alice = app.persona();
    let nsid = "blue.catbird.mls.getConvos";
    let call = async |token: String| {
        let request = alice.xrpc.http.get(alice.xrpc.url(nsid, &[])).bearer_auth(token);
        alice.xrpc.send(nsid, request).await.unwrap()
    };
    let mut claims = Claims::new(alice.did(), SERVICE_DID, nsid);
    (claims.iat, claims.exp) = (claims.iat - 7_200, claims.iat - 3_600);
    let reply = refused(call(Token::new(SECRET).mint(&claims)).await, 401, "ExpiredToken");
    assert_eq!(reply.body["recovery"], "retrySame");
    ok(call(alice.xrpc.token(nsid)).await);
}

async fn a_method_called_with_the_wrong_verb_is_405_and_names_the_right_one(app: &TestApp) {
    let alice = app.persona();
    for route in ROUTES {
        for verb in
            [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS]
        {
            if route.takes(&verb.as_str().parse().unwrap()) {
                continue;
            }
            let url = alice.xrpc.url(route.nsid, &[]);
            let request =
                alice.xrpc.http.request(verb.clone(), url).bearer_auth(alice.xrpc.token(route.nsid)).body("{}");
            let reply = request.send().await.unwrap();
            assert_eq!((reply.status().as_u16(), reply.headers()["allow"].to_str().unwrap()), (405, route.allow()));
            let text = reply.text().await.unwrap();
            assert!(verb == Method::HEAD || text.contains("MethodNotAllowed"), "{text}");
        }
    }
}

async fn an_unknown_method_is_501_and_any_other_path_404(app: &TestApp) {
    let http = &app.persona().xrpc.http.clone();
    for (path, status, name) in [
        ("/xrpc/blue.catbird.mls.noSuchMethod", 501, "MethodNotImplemented"),
        ("/xrpc/blue.catbird.mls.getepoch", 501, "MethodNotImplemented"),
        ("/xrpc/com.example.getEpoch", 501, "MethodNotImplemented"),
        ("/xrpc/x", 501, "MethodNotImplemented"),
        ("/xrpc/", 404, "NotFound"),
        ("/xrpc/blue.catbird.mls.getEpoch/more", 404, "NotFound"),
        ("/", 404, "NotFound"),
        ("/lexicons/blue.catbird.mls.noSuchMethod.json", 404, "NotFound"),
        ("/../../etc/passwd", 404, "NotFound"),
    ] {
        for verb in [Method::GET, Method::POST] {
            if verb == Method::POST && path.starts_with("/lexicons") {
                continue;
            }
            let reply = http.request(verb, format!("{}{path}", app.base)).send().await.unwrap();
            assert_eq!(reply.status().as_u16(), status, "{path}");
            let body: Value = reply.json().await.unwrap();
            assert_eq!((&body["error"], &body["recovery"]), (&json!(name), &json!("giveUp")), "{path}");
            assert!(body["requestId"].is_string() && body["message"].is_string(), "{path}: {body}");
        }
    }
}

async fn every_reply_has_a_request_id_of_the_servers_own(app: &TestApp) {
    let members = app.conversation(1).await;
    let xrpc = &members[0].xrpc;
    let nsid = "blue.catbird.mls.getEpoch";
    let call = async |convo: &str, id: Option<&[u8]>| {
        let mut request = xrpc.http.get(xrpc.url(nsid, &[("convoId", convo.to_owned())])).bearer_auth(xrpc.token(nsid));
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        xrpc.send(nsid, request).await.unwrap()
    };
    let mut own = BTreeSet::new();
    for other in [
        None,
        Some(b"a".as_slice()),
        Some(b"a"),
        Some(b""),
        Some(b"a b"),
        Some(b"a\"b"),
        Some(b"\xff"),
        Some("x".repeat(65).as_bytes()),
    ] {
        let reply = refused(call("missing", other).await, 404, "ConvoNotFound");
        assert_eq!(reply.headers["x-request-id"].to_str().unwrap(), reply.body["requestId"]);
        own.insert(reply.string("requestId").unwrap().to_owned());
    }
    assert_eq!(own.len(), 8, "each has a name of its own, whatever its sender calls it");
}

async fn replies_are_not_kept_by_caches(app: &TestApp) {
    let alice = app.persona();
    for reply in [get(&alice, "getConvos", &[]).await, get(&alice, "getEpoch", &[("convoId", "none")]).await] {
        assert_eq!(reply.headers["cache-control"], "no-store", "{reply}");
    }
}

async fn every_document_is_served_as_it_stands_and_the_index_lists_them_all(app: &TestApp) {
    let http = &app.persona().xrpc.http.clone();
    let index: Value = http.get(format!("{}/lexicons", app.base)).send().await.unwrap().json().await.unwrap();
    assert_eq!(index, lexicons::index());
    for entry in index.as_array().unwrap() {
        let reply = http.get(format!("{}{}", app.base, entry["path"].as_str().unwrap())).send().await.unwrap();
        assert_eq!(reply.headers()["content-type"], "application/json");
        assert_eq!(Some(&*reply.text().await.unwrap()), lexicons::find(entry["nsid"].as_str().unwrap()));
    }
}

fn names(errors: &Value) -> BTreeSet<String> {
    let errors = errors.as_array().map_or(&[][..], Vec::as_slice);
    errors.iter().map(|error| error.as_str().or(error["name"].as_str()).unwrap().to_owned()).collect()
}

fn codes(codes: &[Code]) -> BTreeSet<String> {
    codes.iter().map(|code| code.name().to_owned()).collect()
}

fn document(nsid: &str) -> Value {
    serde_json::from_str(lexicons::find(nsid).unwrap_or_else(|| panic!("{nsid} has no document"))).unwrap()
}

#[test]
fn the_errors_that_every_method_may_give_are_those_of_the_documents() {
    let defs = document("blue.catbird.mls.defs");
    let common = names(&defs["defs"]["errorReply"]["properties"]["error"]["knownValues"]);
    assert_eq!(common, codes(Code::COMMON));
}

#[test]
fn every_method_declares_exactly_the_errors_of_its_document() {
    let is_method = |nsid: &str| document(nsid)["defs"]["main"]["errors"].is_array();
    let documented: BTreeSet<_> =
        lexicons::documents().iter().map(|(nsid, _)| *nsid).filter(|nsid| is_method(nsid)).collect();
    assert_eq!(ROUTES.iter().map(|route| route.nsid).collect::<BTreeSet<_>>(), documented);
    for route in ROUTES {
        let main = &document(route.nsid)["defs"]["main"];
        assert_eq!(codes(&route.errors()), names(&main["errors"]), "{}", route.nsid);
        let kind = match route.kind {
            Kind::Query => "query",
            Kind::Procedure => "procedure",
            Kind::Subscription => "subscription",
        };
        assert_eq!(main["type"], kind, "{}", route.nsid);
    }
}

#[test]
fn every_error_is_common_or_declared_by_some_method() {
    let mut known = codes(Code::COMMON);
    known.extend(ROUTES.iter().flat_map(|route| codes(&route.errors())));
    // Paths outside the methods have no lexicon.
    known.insert(Code::NotFound.name().to_owned());
    assert_eq!(known, codes(Code::ALL));
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Serialize)]
struct Thread {
    thread: String,
}

fn this_thread() -> String {
    format!("{:?}", std::thread::current().id())
}

/// Returns the thread, and so the worker, that answers.
struct Healthy;

impl Endpoint for Healthy {
    const LEXICON: &'static str = r#"{ "id": "blue.catbird.test.healthy" }"#;
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];
    type Input = Nothing;
    type Output = Thread;

    async fn call(_: &App, _: &Caller, _: Nothing) -> Result<Thread, Error> {
        Ok(Thread { thread: this_thread() })
    }
}

/// Panics after an await point, as a handler in the middle of its work would.
struct Panics;

impl Endpoint for Panics {
    const LEXICON: &'static str = r#"{ "id": "blue.catbird.test.panics" }"#;
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[];
    type Input = Nothing;
    type Output = Thread;

    async fn call(_: &App, _: &Caller, _: Nothing) -> Result<Thread, Error> {
        tokio::task::yield_now().await;
        panic!("on purpose, on {}", this_thread())
    }
}

static TEST_ROUTES: &[Route] = &[Route::of::<Healthy>(), Route::of::<Panics>()];

async fn a_panic_is_500_and_its_worker_goes_on(app: &TestApp) {
    let data = Data::new(app.app.clone());
    let server = HttpServer::new(move || {
        let dispatch =
            |app: Data<App>, request: HttpRequest, payload: Payload| xrpc::dispatch(TEST_ROUTES, app, request, payload);
        actix_web::App::new().app_data(data.clone()).route("/xrpc/{nsid}", web::route().to(dispatch))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", 0))
    .unwrap();
    let address = server.addrs()[0];
    let running = server.run();
    let handle = running.handle();
    tokio::spawn(running);

    let client = Arc::new(Xrpc::new(&format!("http://{address}"), &random_did(), SECRET, SERVICE_DID).unwrap());
    let call = async |nsid: &'static str| {
        let request = client.http.post(client.url(nsid, &[])).bearer_auth(client.token(nsid)).body("{}");
        client.send(nsid, request).await.unwrap()
    };
    let worker = ok(call(Healthy::NSID).await).body;
    for _ in 0..3 {
        let reply = refused(call(Panics::NSID).await, 500, "InternalServerError");
        assert!(!reply.text.contains("on purpose"), "{reply}");
        assert_eq!(reply.body["recovery"], "retrySame");
        assert!(reply.headers.contains_key("retry-after") && reply.headers.contains_key("x-request-id"));
        assert_eq!(ok(call(Healthy::NSID).await).body, worker, "the same thread answers");
    }
    handle.stop(true).await;
}
