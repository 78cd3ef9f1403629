//! HTTP/1.1 as far as a closed loop on a persistent connection needs it: requests as bytes, and the end of a message.

use super::Result;
use super::tokens::Minter;

/// Maximum number of headers of a message. Our server sends fewer.
const MAX_HEADERS: usize = 32;

/// A request without its token. Sending it costs three copies and a signature.
#[derive(Clone)]
pub struct Request {
    nsid: String,
    /// The beginning, up to and including `Bearer `.
    before: Vec<u8>,
    /// The end of the head, and the body.
    after: Vec<u8>,
}

impl Request {
    /// A call of a procedure, such as `sendMessage`, with a body in JSON.
    pub fn procedure(method: &str, body: &serde_json::Value) -> Self {
        let body = body.to_string();
        let head = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        Self::new("POST", method, "", &head, body.as_bytes())
    }

    /// A call of a query, such as `getEpoch`, with its parameters as in the URL.
    pub fn query(method: &str, parameters: &str) -> Self {
        Self::new("GET", method, &format!("?{parameters}"), "", b"")
    }

    fn new(verb: &str, method: &str, parameters: &str, head: &str, body: &[u8]) -> Self {
        let nsid = format!("blue.catbird.mls.{method}");
        let before = format!("{verb} /xrpc/{nsid}{parameters} HTTP/1.1\r\nhost: bench\r\n{head}authorization: Bearer ");
        Self { nsid, before: before.into_bytes(), after: [b"\r\n\r\n", body].concat() }
    }

    /// Appends the request with a new token for `did`.
    pub fn render(&self, minter: &mut Minter, did: &str, to: &mut Vec<u8>) {
        self.begin(minter, did, to);
        to.extend_from_slice(&self.after);
    }

    /// Appends the request up to and including the token. [`Request::rest`] is the remainder, for callers that do not
    /// copy it.
    pub fn begin(&self, minter: &mut Minter, did: &str, to: &mut Vec<u8>) {
        to.extend_from_slice(&self.before);
        to.extend_from_slice(minter.token(did, &self.nsid).as_bytes());
    }

    /// The bytes after the token.
    pub fn rest(&self) -> &[u8] {
        &self.after
    }
}

/// The boundaries of a complete message.
pub struct Extent {
    /// Status of a response; 0 for a request.
    pub status: u16,
    /// Offset of the body.
    pub head: usize,
    /// Offset of the end of the message.
    pub end: usize,
}

/// The response at the start of `bytes`; `None` until it is complete.
pub fn response(bytes: &[u8]) -> Result<Option<Extent>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.unwrap_or_default();
    let end = head + body_bytes(response.headers)?.ok_or("a response without content-length")?;
    Ok((bytes.len() >= end).then_some(Extent { status, head, end }))
}

/// The request at the start of `bytes`; `None` until it is complete.
pub fn request(bytes: &[u8]) -> Result<Option<Extent>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes)? else { return Ok(None) };
    let end = head + body_bytes(request.headers)?.unwrap_or(0);
    Ok((bytes.len() >= end).then_some(Extent { status: 0, head, end }))
}

fn body_bytes(headers: &[httparse::Header<'_>]) -> Result<Option<usize>> {
    let Some(length) = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length")) else {
        return Ok(None);
    };
    Ok(Some(std::str::from_utf8(length.value)?.parse()?))
}
