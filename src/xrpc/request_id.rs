//! Id of a request. The server makes one, which stands in the reply and in the log. The log also has the id that the
//! client or the load balancer has sent, if it is well-formed. A client cannot file a request under the id of another.

use std::fmt;

use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse};

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client that is logged, in bytes.
const MAX_BYTES: usize = 64;

/// Id of a request, and the one that its client sent.
#[derive(Debug, Clone)]
pub struct RequestId {
    own: String,
    given: Option<String>,
}

impl RequestId {
    /// Makes a new id, and takes the one that came with the request.
    pub fn of(request: &HttpRequest) -> Self {
        let given = request.headers().get(HEADER).and_then(|value| value.to_str().ok());
        let sane = |id: &&str| {
            (1..=MAX_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        Self { given: given.filter(sane).map(str::to_owned), ..Self::of_none() }
    }

    /// Makes an id for bytes that never became a request.
    pub fn of_none() -> Self {
        Self { own: ulid::Ulid::new().to_string(), given: None }
    }

    /// Id that the client sent.
    pub fn given(&self) -> Option<&str> {
        self.given.as_deref()
    }

    pub fn as_str(&self) -> &str {
        &self.own
    }

    /// Writes the id into a reply.
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
