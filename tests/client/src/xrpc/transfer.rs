//! Calls whose request or reply is bytes: uploads and downloads.

use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Body, Response};
use serde_json::Value;

use super::{Reply, Xrpc, XrpcError, nsid};

/// Maximum time of an upload or a download: that of 50 MiB at the lowest rate that the server accepts, 32 KiB per second, and a little.
const TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Xrpc {
    /// Calls a procedure whose body is bytes: POST with parameters in the query string. The body has this length; it may be a stream
    /// ([`Body::wrap_stream`]).
    pub async fn upload(
        &self,
        method: &str,
        parameters: &[(&str, String)],
        media_type: &str,
        body: impl Into<Body>,
        length: u64,
    ) -> Result<Reply, XrpcError> {
        let nsid = nsid(method);
        let request = self.http.post(self.url(&nsid, parameters)).timeout(TIMEOUT).bearer_auth(self.token(&nsid));
        let request = request.header(CONTENT_TYPE, media_type).header(CONTENT_LENGTH, length);
        self.send(&nsid, request.body(body)).await
    }

    /// Calls a query whose reply is bytes, with headers such as `Range`, or returns the reply that refuses it. A redirection is followed,
    /// without the token if it leads to another server.
    pub async fn download(
        &self,
        method: &str,
        parameters: &[(&str, String)],
        headers: &[(&'static str, &str)],
    ) -> Result<Result<Download, Reply>, XrpcError> {
        let nsid = nsid(method);
        let url = self.url(&nsid, parameters);
        let request = self.http.get(url.clone()).timeout(TIMEOUT).bearer_auth(self.token(&nsid));
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let sent = request.send().await;
        let response = sent.map_err(|source| XrpcError::NoAnswer { nsid: nsid.clone(), source })?;
        let is_own = response.url().origin() == url.origin();
        let download = Download::of(&nsid, response).await?;
        let head = match &download {
            Ok(download) => &download.head(),
            Err(refusal) => refusal,
        };
        if let (Some(on_reply), true) = (&self.on_reply, is_own) {
            on_reply(&nsid, head);
        }
        Ok(download)
    }
}

/// A reply that is bytes, of which the head has arrived: 200, 206 for a part, or 304 without a body.
pub struct Download {
    pub status: u16,
    pub headers: HeaderMap,
    nsid: String,
    response: Response,
}

impl Download {
    async fn of(nsid: &str, response: Response) -> Result<Result<Self, Reply>, XrpcError> {
        let status = response.status().as_u16();
        if !matches!(status, 200 | 206 | 304) {
            return Ok(Err(Reply::of(nsid, response).await?));
        }
        Ok(Ok(Self { status, headers: response.headers().clone(), nsid: nsid.to_owned(), response }))
    }

    /// Returns the status and the headers as a reply without a body.
    pub fn head(&self) -> Reply {
        let (nsid, headers) = (self.nsid.clone(), self.headers.clone());
        Reply { nsid, status: self.status, headers, body: Value::Null, text: String::new() }
    }

    /// Returns the next bytes, or `None` at the end.
    ///
    /// Errors: `NoAnswer` if the server ends the connection before the last byte.
    pub async fn next(&mut self) -> Result<Option<impl AsRef<[u8]> + use<>>, XrpcError> {
        self.response.chunk().await.map_err(|source| XrpcError::NoAnswer { nsid: self.nsid.clone(), source })
    }

    /// Returns all bytes.
    pub async fn bytes(mut self) -> Result<Vec<u8>, XrpcError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            bytes.extend_from_slice(chunk.as_ref());
        }
        Ok(bytes)
    }
}
