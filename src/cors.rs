//! Pages of other origins may ask everything here that is for everybody: a browser asks for leave (a preflight request), which is given
//! before anything else is looked at, and every reply says that any page may read it
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>). That is safe because a token is all that the server goes by: there are no
//! cookies, and so nothing that a page could use without having it.

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Marks the application whose replies pages may read. The pages for operators are read by no other page.
#[derive(Debug, Clone, Copy)]
pub struct Open;

/// For how long a browser may keep the answer to a preflight request, in seconds: a day. Browsers have lower limits of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
/// `*` stands for every header but `Authorization`; the others are named for browsers that do not know it.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Content-Encoding, Last-Event-ID, X-Request-Id, Atproto-Accept-Labelers, Atproto-Proxy, *",
);
/// What a page may read of a reply's headers, beside the few that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After, X-Request-Id, WWW-Authenticate");

/// What a reply says that any page may read.
pub static ANY_PAGE: [(HeaderName, HeaderValue); 2] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
];

/// Whether pages may read what is at this path: as the routes are looked for, in which `%6D` is an `m`.
fn is_open(request: &ServiceRequest) -> bool {
    let path = request.match_info().as_str();
    let for_operators = path.starts_with("/health") || path == "/metrics";
    !for_operators && request.app_data::<Open>().is_some()
}

/// The answer to a browser that asks whether a page may send a request.
pub fn preflight(request: &ServiceRequest) -> Option<HttpResponse> {
    let asks = *request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ORIGIN)
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    (asks && is_open(request)).then(|| {
        HttpResponse::NoContent()
            .insert_header((header::ACCESS_CONTROL_ALLOW_METHODS, METHODS))
            .insert_header((header::ACCESS_CONTROL_ALLOW_HEADERS, HEADERS))
            .insert_header((header::ACCESS_CONTROL_MAX_AGE, MAX_AGE))
            .finish()
    })
}

/// What the reply to this request says to the browser.
pub fn headers(request: &ServiceRequest) -> &'static [(HeaderName, HeaderValue)] {
    if is_open(request) { &ANY_PAGE } else { &[] }
}

/// Adds them.
pub fn stamp(reply: &mut HeaderMap, headers: &[(HeaderName, HeaderValue)]) {
    for (name, value) in headers {
        reply.insert(name.clone(), value.clone());
    }
}
