//! The name of a request: one of our own, which stands in its reply and in the log, and beside it in the log the one that the client or
//! the load balancer has given it, if that is sane. Whoever asks cannot file a request under the name of another.

use std::fmt;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id that is taken over.
const MAX_BYTES: usize = 64;

/// See the module.
#[derive(Debug, Clone)]
pub struct RequestId {
    own: String,
    given: Option<String>,
}

impl RequestId {
    /// A new ULID, and the id that came with the request.
    pub fn of(request: &HttpRequest) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        Self { given: given.filter(sane).map(str::to_owned), ..Self::of_none() }
    }

    /// A new one for what never became a request.
    pub fn of_none() -> Self {
        Self { own: ulid::Ulid::new().to_string(), given: None }
    }

    /// What the client calls it.
    pub fn given(&self) -> Option<&str> {
        self.given.as_deref()
    }

    pub fn as_str(&self) -> &str {
        &self.own
    }

    /// Sends it back.
    pub fn stamp(&self, response: &mut HttpResponse) {
        let value = HeaderValue::from_str(&self.own).expect("a ULID is a valid header value");
        response.headers_mut().insert(HEADER, value);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.own)
    }
}
