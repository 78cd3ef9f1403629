//! The name of a request, from the client or the load balancer if it sends a sane one, so that one search finds it in every log.

use std::fmt;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over.
const MAX_BYTES: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub struct RequestId(String);

impl RequestId {
    /// The id that came with the request, or a new ULID.
    pub fn of(request: &HttpRequest) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        Self(given.filter(sane).map_or_else(|| ulid::Ulid::new().to_string(), str::to_owned))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Sends it back.
    pub fn stamp(&self, response: &mut HttpResponse) {
        let value = HeaderValue::from_str(&self.0).expect("it was checked or made to be a valid header value");
        response.headers_mut().insert(HEADER, value);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
