//! Reply of a call: status, headers and body, and access to its fields.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, STANDARD, STANDARD_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use reqwest::RequestBuilder;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::{Value, json};

use super::XrpcError;

/// Reply of one call, with any status.
#[derive(Debug, Clone)]
pub struct Reply {
    pub nsid: String,
    pub status: u16,
    pub headers: HeaderMap,
    /// Body as JSON, or null if it is not JSON.
    pub body: Value,
    /// Body as it was received.
    pub text: String,
}

impl Reply {
    pub(super) async fn read(nsid: &str, request: RequestBuilder) -> Result<Self, XrpcError> {
        let no_answer = |source| XrpcError::NoAnswer { nsid: nsid.to_owned(), source };
        let response = request.send().await.map_err(no_answer)?;
        Self::of(nsid, response).await
    }

    /// Reads a response to its end.
    pub(super) async fn of(nsid: &str, response: reqwest::Response) -> Result<Self, XrpcError> {
        let no_answer = |source| XrpcError::NoAnswer { nsid: nsid.to_owned(), source };
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let text = response.text().await.map_err(no_answer)?;
        // A body that is not JSON is in `text` only; null has none of the fields.
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { nsid: nsid.to_owned(), status, headers, body, text })
    }

    pub fn is_ok(&self) -> bool {
        self.status == 200
    }

    /// Name of the error, such as `EpochMismatch`.
    pub fn error(&self) -> Option<&str> {
        self.body["error"].as_str()
    }

    /// Sentence of the error, without its details.
    pub fn sentence(&self) -> &str {
        let message = self.body["message"].as_str().unwrap_or_default();
        facts(message).map_or(message, |(sentence, _)| sentence)
    }

    /// Wait that the server asks for: the exact `retryAfterMs`, else the `Retry-After` header in seconds.
    pub fn retry_after(&self) -> Option<Duration> {
        let exact = self.body["retryAfterMs"].as_u64().map(Duration::from_millis);
        let header = || self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs);
        exact.or_else(header)
    }

    /// Returns a field that must be a string.
    pub fn string(&self, field: &str) -> Result<&str, XrpcError> {
        self.string_in(&self.body, field)
    }

    /// Returns a field that must be a whole number of 0 or more.
    pub fn number(&self, field: &str) -> Result<u64, XrpcError> {
        self.number_in(&self.body, field)
    }

    /// Returns a field that must hold bytes, in either form.
    pub fn bytes(&self, field: &str) -> Result<Vec<u8>, XrpcError> {
        self.bytes_in(&self.body, field)
    }

    /// Returns a field that must be a list.
    pub fn list(&self, field: &str) -> Result<&[Value], XrpcError> {
        self.body[field].as_array().map(Vec::as_slice).ok_or_else(|| self.malformed(&self.body, field, "a list"))
    }

    /// Like [`Reply::string`], in an object inside the body.
    pub fn string_in<'a>(&self, object: &'a Value, field: &str) -> Result<&'a str, XrpcError> {
        object[field].as_str().ok_or_else(|| self.malformed(object, field, "a string"))
    }

    /// Like [`Reply::number`], in an object inside the body.
    pub fn number_in(&self, object: &Value, field: &str) -> Result<u64, XrpcError> {
        object[field].as_u64().ok_or_else(|| self.malformed(object, field, "a number"))
    }

    /// Like [`Reply::bytes`], in an object inside the body.
    pub fn bytes_in(&self, object: &Value, field: &str) -> Result<Vec<u8>, XrpcError> {
        decode_bytes(&object[field]).ok_or_else(|| self.malformed(object, field, "bytes as base64"))
    }

    fn malformed(&self, object: &Value, field: &str, expected: &'static str) -> XrpcError {
        XrpcError::Malformed { nsid: self.nsid.clone(), field: field.to_owned(), expected, body: object.to_string() }
    }
}

/// Formats as `409 blue.catbird.mls.addMembers {"error":…}`: one line for a reader, cut where only base64 would follow.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = if self.text.is_empty() { "(empty body)" } else { &self.text };
        write!(f, "{} {} {text:.1000}", self.status, self.nsid)
    }
}

/// Splits an error's `message` into its sentence and the details in brackets, which are all that a proxy forwards of
/// the body's other fields.
pub fn facts(message: &str) -> Option<(&str, BTreeMap<&str, &str>)> {
    let (sentence, facts) = message.strip_suffix(']')?.rsplit_once(" [")?;
    let facts = facts.split(' ').map(|fact| fact.split_once('=')).collect::<Option<_>>()?;
    Some((sentence, facts))
}

/// Returns bytes in AT Protocol's data model: `{"$bytes": …}`, standard alphabet without padding.
pub fn bytes_value(bytes: &[u8]) -> Value {
    json!({ "$bytes": STANDARD_NO_PAD.encode(bytes) })
}

/// Returns bytes as a string field: standard alphabet with padding.
pub fn base64_text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Decodes bytes in either form and alphabet, padded or not.
pub fn decode_bytes(value: &Value) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = value.get("$bytes").unwrap_or(value).as_str()?;
    let alphabet = if text.contains(['-', '_']) { &alphabet::URL_SAFE } else { &alphabet::STANDARD };
    GeneralPurpose::new(alphabet, LENIENT).decode(text).ok()
}
