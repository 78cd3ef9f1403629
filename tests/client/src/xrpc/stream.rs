//! A stream of server-sent events, parsed as in the HTML standard (9.2.6).

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{RequestBuilder, Response};
use serde_json::Value;

use super::{Reply, TIMEOUT, XrpcError};

/// Time without bytes after which a stream is dead: keepalives arrive every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// Type, such as `messageEvent`.
    pub name: String,
    pub data: Value,
    /// Last id up to this event, from which to resume.
    pub id: String,
}

impl Event {
    /// Returns it as a reply, for the same field access.
    pub fn as_reply(&self, method: &str) -> Reply {
        let (headers, body) = (HeaderMap::new(), self.data.clone());
        Reply { nsid: super::nsid(method), status: 200, headers, text: body.to_string(), body }
    }
}

/// An open stream.
pub struct EventStream {
    nsid: String,
    response: Response,
    /// Bytes of an incomplete line.
    buffer: Vec<u8>,
    /// Last id, with an event or alone.
    pub last_id: Option<String>,
    /// Reconnection delay that the server sent last, in milliseconds.
    pub retry_ms: Option<u64>,
    /// Number of comments.
    pub comments: u64,
}

impl EventStream {
    /// Opens a stream, or reads the reply that refuses it.
    pub async fn open(nsid: &str, request: RequestBuilder) -> Result<Result<Self, Reply>, XrpcError> {
        let no_answer = |source| XrpcError::NoAnswer { nsid: nsid.to_owned(), source };
        let silent = |_| XrpcError::Silent { nsid: nsid.to_owned(), waited: TIMEOUT };
        let response = tokio::time::timeout(TIMEOUT, request.send()).await.map_err(silent)?.map_err(no_answer)?;
        if !response.status().is_success() {
            return Ok(Err(Reply::of(nsid, response).await?));
        }
        Ok(Ok(Self { nsid: nsid.to_owned(), response, buffer: Vec::new(), last_id: None, retry_ms: None, comments: 0 }))
    }

    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Returns the next event; `None` when the server has ended the stream in order. Waits while keepalives arrive.
    pub async fn next(&mut self) -> Result<Option<Event>, XrpcError> {
        loop {
            let Some((name, data)) = self.block().await? else { return Ok(None) };
            if !data.is_empty() {
                let id = self.last_id.clone().unwrap_or_default();
                let data = serde_json::from_str(&data).unwrap_or(Value::Null);
                return Ok(Some(Event { name, data, id }));
            }
        }
    }

    /// Skips the next event or keepalive. A stream starts with a keepalive.
    pub async fn skip(&mut self) -> Result<(), XrpcError> {
        self.block().await.map(drop)
    }

    /// Reads the lines up to an empty one: a type and data, each possibly empty. Its id counts only then, so an event
    /// that is cut off is requested again.
    async fn block(&mut self) -> Result<Option<(String, String)>, XrpcError> {
        let (mut name, mut data, mut id) = (String::new(), String::new(), None);
        loop {
            let Some(line) = self.line().await? else { return Ok(None) };
            if line.is_empty() {
                self.last_id = id.or(self.last_id.take());
                return Ok(Some((name, data)));
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.comments += 1,
                "id" => id = Some(value.to_owned()),
                "event" => name = value.to_owned(),
                "data" => data.push_str(value),
                "retry" => self.retry_ms = value.parse().ok(),
                _ => {}
            }
        }
    }

    async fn line(&mut self) -> Result<Option<String>, XrpcError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.buffer[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(searched + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return Ok(Some(String::from_utf8_lossy(&line[..line.len() - 1]).into_owned()));
            }
            searched = self.buffer.len();
            let silent = |_| XrpcError::Silent { nsid: self.nsid.clone(), waited: SILENCE };
            let chunk = tokio::time::timeout(SILENCE, self.response.chunk()).await.map_err(silent)?;
            match chunk.map_err(|source| XrpcError::NoAnswer { nsid: self.nsid.clone(), source })? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}
