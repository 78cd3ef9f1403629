//! Delivery to a webhook: an HTTP POST of JSON, signed as Standard Webhooks (<https://www.standardwebhooks.com>), so
//! that receivers can verify it with existing libraries.
//!
//! `webhook-id` is the envelope's id, the same at every attempt; `webhook-timestamp` is the time of the attempt in
//! seconds; `webhook-signature` is `v1,` and the base64 of HMAC-SHA-256, with the mailbox's secret, over
//! `<webhook-id>.<webhook-timestamp>.<body>`. A 2xx accepts the envelope, 410 refuses it at once, and another permanent
//! 4xx after a few attempts. Redirects and proxies are not used, strangers' hosts are called over HTTPS at public
//! addresses only, and only the beginning of an answer is read.
//!
//! A new mailbox is first sent a challenge, a token in a body signed in the same way. A 2xx whose body is the token, or
//! a JSON object with it as `challenge`, verifies the mailbox.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use hmac::{Hmac, Mac};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};
use sha2::Sha256;

use crate::net;
use crate::store::mailboxes::{Challenge, Webhook};
use crate::wire::{MessageView, datetime};

/// Size from which an entry is large.
const LARGE: usize = 256 * 1024;
/// Maximum number of bytes of an answer that are read.
const MAX_ANSWER_BYTES: usize = 4 * 1024;
/// Idle connections to one host that are kept for the next attempt.
const IDLE_PER_HOST: usize = 2;
/// Maximum length of a stored failure reason, in characters.
const MAX_REASON: usize = 200;

/// Body of an envelope, as `blue.catbird.mls.defs#envelope` declares it.
#[derive(Serialize)]
struct Envelope<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(serialize_with = "datetime")]
    timestamp: DateTime<Utc>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: &'a str,
    recipient: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
    message: &'a MessageView,
}

/// Body of a challenge, as `blue.catbird.mls.defs#mailboxVerification` declares it.
#[derive(Serialize)]
struct Question<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(serialize_with = "datetime")]
    timestamp: DateTime<Utc>,
    data: QuestionData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct QuestionData<'a> {
    challenge: &'a str,
    recipient: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    convo_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
}

/// Result of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WebhookResult {
    Accepted,
    /// It is refused for good.
    Gone(String),
    /// The host reports an error in the request; another attempt succeeds only if the host changes.
    Refused(String),
    /// Another attempt may succeed, after this wait if the host has asked for one.
    Failed(String, Option<Duration>),
}

/// HTTP client for webhooks.
pub(super) struct Client(reqwest::Client);

impl Client {
    pub fn new(timeout: Duration, allow_private_hosts: bool) -> Result<Self, reqwest::Error> {
        let client = net::client::builder(timeout).pool_max_idle_per_host(IDLE_PER_HOST);
        let client = if allow_private_hosts { client } else { net::client::public_only(client) };
        Ok(Self(client.build()?))
    }

    /// Makes one attempt, at `now`.
    pub async fn post(
        &self,
        mailbox: &Webhook,
        id: &str,
        recipient: &str,
        message: &MessageView,
        now: DateTime<Utc>,
    ) -> WebhookResult {
        let zone = mailbox.zone.as_deref();
        let data = Data { id, recipient, zone, message };
        let envelope = Envelope { kind: "blue.catbird.mls.envelope", timestamp: message.created_at, data };
        let timestamp = now.timestamp().to_string();
        let sealed = || {
            let body = serde_json::to_vec(&envelope)?;
            let signature = signature(&mailbox.secret.0, id, &timestamp, &body);
            Ok::<_, serde_json::Error>((body, signature))
        };
        // A large body takes tens of milliseconds; other work of this thread moves to another one meanwhile.
        let sealed = match message.ciphertext.size() > LARGE {
            true => tokio::task::block_in_place(sealed),
            false => sealed(),
        };
        match sealed {
            Ok((body, signature)) => {
                let sent = self.send(mailbox, id, timestamp, signature, body).await;
                sent.map_or_else(|failed| failed, |(status, _, wait)| classify(status, wait))
            }
            Err(cause) => WebhookResult::Failed(cause.to_string(), None),
        }
    }

    /// Sends one challenge with this id, at `now`. It is accepted if the token came back.
    pub async fn challenge(&self, challenge: &Challenge, id: &str, now: DateTime<Utc>) -> WebhookResult {
        let Challenge { mailbox, token, .. } = challenge;
        let (recipient, convo_id) = (challenge.recipient(), challenge.convo());
        let data = QuestionData { challenge: token, recipient, convo_id, zone: mailbox.zone.as_deref() };
        let question = Question { kind: "blue.catbird.mls.mailboxVerification", timestamp: now, data };
        let timestamp = now.timestamp().to_string();
        let body = match serde_json::to_vec(&question) {
            Ok(body) => body,
            Err(cause) => return WebhookResult::Failed(cause.to_string(), None),
        };
        let signature = signature(&mailbox.secret.0, id, &timestamp, &body);
        match self.send(mailbox, id, timestamp, signature, body).await {
            Ok((status, body, wait)) => match classify(status, wait) {
                WebhookResult::Accepted if !contains_token(&body, token) => {
                    WebhookResult::Refused("the mailbox did not repeat the challenge".to_owned())
                }
                answer => answer,
            },
            Err(failed) => failed,
        }
    }

    /// Sends a body, and returns the status, the beginning of the answer, and the wait that it asks for.
    async fn send(
        &self,
        mailbox: &Webhook,
        id: &str,
        timestamp: String,
        signature: String,
        body: Vec<u8>,
    ) -> Result<(StatusCode, Vec<u8>, Option<Duration>), WebhookResult> {
        let request = self
            .0
            .post(&mailbox.url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .body(body);
        let mut answer = request.send().await.map_err(|cause| WebhookResult::Failed(reason(cause), None))?;
        let (status, wait) = (answer.status(), retry_after(&answer));
        // The answer is read so that the connection can be reused; a failure here does not change the status.
        let mut read = Vec::new();
        while read.len() <= MAX_ANSWER_BYTES
            && let Ok(Some(chunk)) = answer.chunk().await
        {
            read.extend_from_slice(&chunk);
        }
        Ok((status, read, wait))
    }
}

fn classify(status: StatusCode, wait: Option<Duration>) -> WebhookResult {
    let why = format!("the mailbox answered {}", status.as_u16());
    match status {
        status if status.is_success() => WebhookResult::Accepted,
        StatusCode::GONE => WebhookResult::Gone(why),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            WebhookResult::Failed(why, wait)
        }
        status if status.is_client_error() => WebhookResult::Refused(why),
        _ => WebhookResult::Failed(why, wait),
    }
}

/// Returns true if a body is the token, or a JSON object with it.
fn contains_token(body: &[u8], token: &str) -> bool {
    // A struct could also be read from a list.
    let in_object = |object: Map<String, Value>| object.get("challenge").is_some_and(|challenge| challenge == token);
    body.trim_ascii() == token.as_bytes() || serde_json::from_slice(body).is_ok_and(in_object)
}

/// Returns the wait that a host asks for in seconds (RFC 9110 section 10.2.3).
fn retry_after(answer: &Response) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn signature(secret: &[u8], id: &str, timestamp: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
        mac.update(part);
    }
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Returns the innermost cause without the URL, which may contain a member's secret.
fn reason(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "the mailbox did not answer in time".to_owned();
    }
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    format!("the mailbox could not be called: {cause}").chars().take(MAX_REASON).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_repeated_by_itself_or_in_an_object() {
        for body in ["abc", " abc\r\n", r#"{"challenge":"abc"}"#, r#" {"ok": true, "challenge": "abc"} "#] {
            assert!(contains_token(body.as_bytes(), "abc"), "{body}");
        }
        for body in ["", "ab", "abcd", "{}", r#"{"challenge":"ab"}"#, r#""abc""#, r#"["abc"]"#, r#"{"token":"abc"}"#] {
            assert!(!contains_token(body.as_bytes(), "abc"), "{body}");
        }
    }

    #[test]
    fn statuses_are_classified() {
        let classified = |status: u16| classify(StatusCode::from_u16(status).unwrap(), None);
        for status in [400, 401, 403, 404, 405, 409, 413, 422, 451] {
            assert!(matches!(classified(status), WebhookResult::Refused(_)), "{status}");
        }
        for status in [301, 307, 408, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(classified(status), WebhookResult::Failed(..)), "{status}");
        }
        assert!(matches!(
            (classified(200), classified(204), classified(410)),
            (WebhookResult::Accepted, WebhookResult::Accepted, WebhookResult::Gone(_))
        ));
    }

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // Example from the specification's reference libraries.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
