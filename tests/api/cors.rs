//! Preflight requests of browsers: allowed for every public path, even if the call itself will be refused, and never
//! for the operators' pages.

use std::collections::BTreeSet;

use actix_web::dev::ServerHandle;
use catbird_client::xrpc::http;
use catbird_server::api::ROUTES;
use catbird_server::app::App;
use catbird_server::clock::Clock;
use catbird_server::config::Config;
use catbird_server::server;
use catbird_testkit::app::{TestApp, variables};
use reqwest::{Client, Method, Response};
use serde_json::Value;

use crate::harness::*;

any_serializer! {
    any_page_may_ask_for_leave_and_gets_it;
    any_page_may_read_every_reply_refusals_too;
    the_pages_for_operators_are_for_no_other_page;
}

/// A server that waits for its database.
struct Starting {
    base: String,
    server: ServerHandle,
}

impl Starting {
    async fn beside(other: &TestApp) -> Self {
        let config = Config::from_variables(variables(&[])).unwrap();
        let app = App::new(config, other.database.config.clone(), Clock::system()).await.unwrap();
        let listener = server::bind(&app.config).unwrap();
        let (address, running) = server::build(app, listener).unwrap();
        let server = running.handle();
        tokio::spawn(running);
        Self { base: format!("http://{address}"), server }
    }
}

async fn preflight(http: &Client, url: &str, method: &str) -> Response {
    let asking = http.request(Method::OPTIONS, url).header("origin", "https://app.example");
    let asking = asking.header("access-control-request-method", method);
    asking.header("access-control-request-headers", "authorization,content-type").send().await.unwrap()
}

fn list(reply: &Response, name: &str) -> BTreeSet<String> {
    let text = reply.headers()[name].to_str().unwrap();
    text.split(',').map(|item| item.trim().to_ascii_lowercase()).collect()
}

fn origins(reply: &Response) -> Option<&str> {
    reply.headers().get("access-control-allow-origin").map(|value| value.to_str().unwrap())
}

async fn any_page_may_ask_for_leave_and_gets_it(app: &TestApp) {
    let http = http().unwrap();
    let methods = ROUTES.iter().map(|route| (format!("/xrpc/{}", route.nsid), route.kind.verb().to_string()));
    let documents = ["/.well-known/did.json", "/lexicons", "/lexicons/blue.catbird.mls.defs.json", "/openapi.json"];
    let pages = documents.into_iter().chain(["/xrpc/_health"]);
    let asked = methods.chain(pages.map(|page| (page.to_owned(), "GET".to_owned())));
    // A preflight needs no token and no ready server; otherwise a page could not learn why its request was not sent.
    let starting = Starting::beside(app).await;
    for base in [&app.base, &starting.base] {
        for (path, verb) in asked.clone() {
            let reply = preflight(&http, &format!("{base}{path}"), &verb).await;
            assert_eq!((reply.status().as_u16(), origins(&reply)), (204, Some("*")), "{path}");
            assert!(list(&reply, "access-control-allow-methods").contains(&verb.to_lowercase()), "{path}");
            let headers = list(&reply, "access-control-allow-headers");
            for name in [
                "authorization",
                "content-type",
                "last-event-id",
                "range",
                "if-range",
                "if-none-match",
                "atproto-proxy",
                "*",
            ] {
                assert!(headers.contains(name), "{path}: {name}");
            }
            assert_eq!(reply.headers()["access-control-max-age"], "86400", "{path}");
            assert_eq!(reply.text().await.unwrap(), "", "{path}");
        }
    }
    starting.server.stop(true).await;
}

async fn any_page_may_read_every_reply_refusals_too(app: &TestApp) {
    let http = http().unwrap();
    let alice = app.persona();
    let nsid = "blue.catbird.mls.getConvos";
    let signed = |path: &str| http.get(format!("{}{path}", app.base)).bearer_auth(alice.xrpc.token(nsid));
    let readable = async |request: reqwest::RequestBuilder, status: u16| {
        let reply = request.header("origin", "https://app.example").send().await.unwrap();
        assert_eq!((reply.status().as_u16(), origins(&reply)), (status, Some("*")), "{}", reply.url());
        let exposed = list(&reply, "access-control-expose-headers");
        for name in ["retry-after", "x-request-id", "etag", "content-range", "accept-ranges", "content-disposition"] {
            assert!(exposed.contains(name), "{exposed:?}");
        }
        reply
    };
    let path = format!("/xrpc/{nsid}");
    for (path, status) in [
        ("/.well-known/did.json", 200),
        ("/lexicons", 200),
        ("/lexicons/blue.catbird.mls.defs.json", 200),
        ("/openapi.json", 200),
        ("/xrpc/_health", 200),
        ("/lexicons/no.such.document", 404),
        ("/xrpc/no.such.method", 501),
        ("/nowhere", 404),
        (&*path, 401),
    ] {
        readable(http.get(format!("{}{path}", app.base)), status).await;
    }
    readable(signed(&path), 200).await;
    readable(http.post(format!("{}{path}", app.base)), 405).await;
    readable(signed(&path).header("connection", "upgrade").header("upgrade", "websocket"), 400).await;
    let starting = Starting::beside(app).await;
    let reply = readable(http.get(format!("{}{path}", starting.base)), 503).await;
    assert!(reply.headers().contains_key("retry-after"));
    let body: Value = reply.json().await.unwrap();
    assert_eq!(body["recovery"], "retrySame");
    starting.server.stop(true).await;
}

async fn the_pages_for_operators_are_for_no_other_page(app: &TestApp) {
    let http = http().unwrap();
    // In any spelling of the path.
    let spelt = ["/%6Detrics", "/%68ealth", "/healt%68", "/%68ealth/live"];
    for page in ["/metrics", "/health", "/health/live", "/health/ready"].into_iter().chain(spelt) {
        let url = format!("{}{page}", app.base);
        let reply = preflight(&http, &url, "GET").await;
        assert!(!reply.status().is_success() && origins(&reply).is_none(), "{page}");
        let reply = http.get(url).header("origin", "https://app.example").send().await.unwrap();
        assert_ne!(reply.status(), 404, "{page}");
        assert_eq!(origins(&reply), None, "{page}");
    }
    // Other OPTIONS requests get the usual answer.
    let alice = app.persona();
    let request = http.request(Method::OPTIONS, alice.xrpc.url("blue.catbird.mls.getConvos", &[]));
    refused(alice.xrpc.send("blue.catbird.mls.getConvos", request).await.unwrap(), 405, "MethodNotAllowed");
}
