//! Cross-origin requests. Pages of any origin may call everything that is open to all clients: preflight requests are
//! answered before anything else, and every reply allows any page to read it
//! (<https://fetch.spec.whatwg.org/#http-cors-protocol>). This is safe because the server authenticates by token only;
//! there are no cookies that a page could use without having them.

use actix_web::HttpResponse;
use actix_web::dev::ServiceRequest;
use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Marks the application whose replies pages may read. Operators' pages are not readable by other pages.
#[derive(Debug, Clone, Copy)]
pub struct Open;

/// Time for which a browser may cache a preflight answer, in seconds: a day. Browsers have lower limits of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, OPTIONS");
/// `*` covers every header but `Authorization`; the others are listed for browsers without `*`.
const HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Content-Encoding, If-None-Match, If-Range, Last-Event-ID, Range, X-Request-Id, Atproto-Accept-Labelers, Atproto-Proxy, *",
);
/// Reply headers that a page may read, beside the few that it always may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Retry-After, X-Request-Id, WWW-Authenticate, Accept-Ranges, Content-Disposition, Content-Range, ETag",
);

/// Reply headers that allow any page to read it.
pub static ANY_PAGE: [(HeaderName, HeaderValue); 2] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
];

/// Returns true if pages may read this path, as the router sees it, where `%6D` is an `m`.
fn is_open(request: &ServiceRequest) -> bool {
    let path = request.match_info().as_str();
    let for_operators = path.starts_with("/health") || path == "/metrics";
    !for_operators && request.app_data::<Open>().is_some()
}

/// Answers a browser's preflight request.
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

/// Returns the CORS headers of the reply to this request.
pub fn headers(request: &ServiceRequest) -> &'static [(HeaderName, HeaderValue)] {
    if is_open(request) { &ANY_PAGE } else { &[] }
}

/// Adds these headers to a reply.
pub fn stamp(reply: &mut HeaderMap, headers: &[(HeaderName, HeaderValue)]) {
    for (name, value) in headers {
        reply.insert(name.clone(), value.clone());
    }
}
