//! Replies on the wire.
//!
//! Proxies such as a PDS, and libraries of clients, reduce an error to its status, `error`, `message` and
//! `Retry-After`. So the details stand twice: as fields, and after the sentence in `message`
//! ([`message_with_details`]).

use actix_web::http::header;
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use serde_json::Value;

use crate::error::{Code, Details, Error, Recovery};
use crate::memory::LargeWork;

use super::request_id::RequestId;

/// Body of every error, as `blue.catbird.mls.defs#errorReply` declares it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ErrorReply<'a> {
    error: &'static str,
    message: String,
    recovery: Recovery,
    request_id: &'a str,
    #[serde(flatten)]
    details: &'a Details,
}

/// Successful output of an endpoint: any value that becomes JSON, or a reply of its own kind.
pub trait Reply {
    /// True if the bytes of the body are charged to the caller while they are sent.
    const IS_METERED: bool = false;

    /// Returns the reply. A large one is encoded by `large`.
    fn response(self, large: Option<&LargeWork>) -> impl Future<Output = Result<HttpResponse, Error>>;
}

impl<T: Serialize + Send + 'static> Reply for T {
    /// 200 with a JSON body.
    async fn response(self, large: Option<&LargeWork>) -> Result<HttpResponse, Error> {
        let encode = move || serde_json::to_vec(&self).map_err(Error::internal);
        let body = match large {
            Some(work) => work.run(encode).await??,
            None => encode()?,
        };
        Ok(HttpResponse::Ok().content_type("application/json").body(body))
    }
}

/// Output that takes over a connection whose client has asked for an upgrade.
pub trait Upgrade {
    fn response(self, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Error>;
}

/// Returns the sentence of an error and its details: `[serverEpoch=7 reason=stale recovery=catchUpThenRebase
/// requestId=…]`, in the order of the fields, separated by single spaces. Commits (`missing`) and `groupInfo` are left out. No value
/// contains a space or a bracket, so the details follow the last opening bracket, whatever the sentence quotes.
pub fn message_with_details(error: &Error, id: Option<&RequestId>) -> String {
    // Names all fields, so that a new one does not compile until it is handled here.
    let Details {
        server_epoch,
        generation,
        group_id,
        server_incarnation,
        reason,
        missing: _,
        more_missing,
        group_info: _,
        retry_after_ms,
        outcome,
        message_id,
        size: _,
        cause: _,
    } = &*error.details;
    let listed = [
        ("serverEpoch", detail(server_epoch)),
        ("generation", detail(generation)),
        ("groupId", detail(group_id)),
        ("serverIncarnation", detail(server_incarnation)),
        ("reason", detail(reason)),
        ("moreMissing", detail(more_missing)),
        ("retryAfterMs", detail(retry_after_ms)),
        ("outcome", detail(outcome)),
        ("messageId", detail(message_id)),
        ("recovery", detail(&Some(error.code.recovery()))),
        ("requestId", id.map(RequestId::to_string)),
    ];
    let listed: Vec<_> = listed.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", value?))).collect();
    format!("{} [{}]", error.message, listed.join(" "))
}

/// Returns a detail as the body has it, without the quotation marks of a string.
fn detail(value: &Option<impl Serialize>) -> Option<String> {
    match serde_json::to_value(value).expect("numbers, flags and words are JSON") {
        Value::Null => None,
        Value::String(text) => Some(text),
        number_or_flag => Some(number_or_flag.to_string()),
    }
}

/// Returns the body of an error.
pub fn error_body<'a>(error: &'a Error, id: &'a RequestId) -> impl Serialize + use<'a> {
    ErrorReply {
        error: error.code.name(),
        message: message_with_details(error, Some(id)),
        recovery: error.code.recovery(),
        request_id: id.as_str(),
        details: &error.details,
    }
}

/// Returns an error with its status, its headers and its body.
pub fn error_response(error: &Error, id: &RequestId) -> HttpResponse {
    let mut response = HttpResponse::build(error.code.status());
    if let Some(ms) = error.details.retry_after_ms {
        // Whole seconds, rounded up (RFC 9110, section 10.2.3). The body has the exact time.
        response.insert_header((header::RETRY_AFTER, ms.div_ceil(1_000).to_string()));
    }
    if let Some(size) = error.details.size {
        response.insert_header((header::CONTENT_RANGE, format!("bytes */{size}")));
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
    response.json(error_body(error, id))
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use actix_web::test::TestRequest;

    use super::*;
    use crate::error::{Outcome, Reason};

    #[actix_web::test]
    async fn every_error_has_its_details_as_fields_and_in_its_message() {
        for code in Code::ALL {
            let mut error = code.because("a sentence [that=quotes] something");
            error.details.server_epoch = Some(7);
            error.details.generation = Some(2);
            error.details.group_id = Some("a1".to_owned());
            error.details.reason = Some(Reason::Stale);
            error.details.missing = Some(Vec::new());
            error.details.more_missing = Some(false);
            error.details.outcome = Some(Outcome::Unknown);
            error.details.message_id = Some("m-1".parse().unwrap());
            let id = RequestId::of(&TestRequest::default().to_http_request());
            let reply = error_response(&error, &id);
            assert_eq!(reply.status(), code.status());
            let waits = error.details.retry_after_ms.map(|ms| ms.div_ceil(1_000).to_string());
            let header = reply.headers().get(header::RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_owned());
            assert_eq!(header, waits, "{}", code.name());

            let body = to_bytes(reply.into_body()).await.unwrap();
            let mut body: serde_json::Map<String, Value> = serde_json::from_slice(&body).unwrap();
            let (name, message) = (body.remove("error").unwrap(), body.remove("message").unwrap());
            assert_eq!(name, code.name());
            let listed = message.as_str().unwrap().strip_prefix("a sentence [that=quotes] something [").unwrap();
            let listed = listed.strip_suffix(']').unwrap().split(' ').map(|item| item.split_once('=').unwrap());
            body.remove("missing").unwrap();
            let fields: Vec<_> =
                body.into_iter().map(|(name, value)| (name, value.to_string().replace('"', ""))).collect();
            let mut told: Vec<_> = listed.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            told.sort_unstable();
            assert_eq!(told, fields, "{}", code.name());
        }
    }
}
