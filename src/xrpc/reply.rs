//! How answers look on the wire.

use actix_web::http::header;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use crate::error::{Code, Details, Error, Recovery};

use super::heavy::Heavy;
use super::request_id::RequestId;

/// The body of every error, as `blue.catbird.mls.defs#errorReply` declares it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorReply<'a> {
    error: &'static str,
    message: &'a str,
    recovery: Recovery,
    request_id: &'a str,
    #[serde(flatten)]
    details: &'a Details,
}

/// What an endpoint answers with when all went well: anything that becomes JSON, or a reply of its own kind.
pub trait Answer {
    /// The reply. What is `large` is made where it holds nobody up.
    fn response(self, large: Option<&Heavy>) -> impl Future<Output = Result<HttpResponse, Error>>;
}

impl<T: Serialize + Send + 'static> Answer for T {
    /// 200 with a JSON body.
    async fn response(self, large: Option<&Heavy>) -> Result<HttpResponse, Error> {
        let encode = move || serde_json::to_vec(&self).map_err(Error::internal);
        let body = match large {
            Some(heavy) => heavy.run(encode).await??,
            None => encode()?,
        };
        Ok(HttpResponse::Ok().content_type("application/json").body(body))
    }
}

/// What takes a connection over, once the client has asked for that as it should.
pub trait Upgrade {
    fn response(self, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Error>;
}

/// An error with its status, its headers and its body.
pub fn error_response(error: &Error, id: &RequestId) -> HttpResponse {
    let mut response = HttpResponse::build(error.code.status());
    if let Some(ms) = error.details.retry_after_ms {
        // Whole seconds, rounded up (RFC 9110, 10.2.3); the body has it exactly.
        response.insert_header((header::RETRY_AFTER, ms.div_ceil(1_000).to_string()));
    }
    if matches!(
        error.code,
        Code::AuthenticationRequired | Code::InvalidToken | Code::ExpiredToken | Code::TokenReplayed
    ) {
        response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    if error.code == Code::UpgradeRequired {
        response.insert_header((header::UPGRADE, "websocket")).insert_header((header::SEC_WEBSOCKET_VERSION, "13"));
    }
    response.json(ErrorReply {
        error: error.code.name(),
        message: &error.message,
        recovery: error.recovery(),
        request_id: id.as_str(),
        details: &error.details,
    })
}
