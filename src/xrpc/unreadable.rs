//! Replies to heads that are not requests. The HTTP library answers them by itself, with a status and no body, before
//! any code here sees a request; every error of this server must have a body.

use crate::cors;
use crate::error::Code;

use super::{RequestId, error_body};

/// Returns the reply to send in place of `bytes`, if these are the library's own reply to a head that it could not
/// parse. If the listener is `open`, any page may read it.
pub fn reply_to_unreadable_head(bytes: &[u8], open: bool) -> Option<Vec<u8>> {
    let reply = std::str::from_utf8(bytes).ok()?;
    let (line, fields) = reply.strip_prefix("HTTP/1.1 ")?.split_once("\r\n")?;
    if !line.starts_with('4') || !fields.ends_with("\r\n\r\n") {
        return None;
    }
    let message = match line.get(..3)? {
        "431" => "the head of the request is too large: it has more than 128 KiB or more than 96 headers",
        "408" => "the request did not arrive in time",
        _ => "this is not an HTTP/1.1 request, or its URL is longer than 64 KiB",
    };
    let error = Code::InvalidRequest.because(message);
    let id = RequestId::of_none();
    tracing::info!(%id, status = &line[..3], error = error.code.name(), "a head was refused");
    let body = serde_json::to_string(&error_body(&error, &id)).expect("it has text and numbers alone");
    let length = body.len();
    let mut reply = format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         x-content-type-options: nosniff\r\nx-request-id: {id}\r\ncache-control: no-store\r\nconnection: close\r\n"
    )
    .into_bytes();
    for (name, value) in if open { &cors::ANY_PAGE[..] } else { &[] } {
        reply.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    reply.extend([b"\r\n", body.as_bytes()].concat());
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_of_the_library_are_replaced() {
        let theirs = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let ours = |open| String::from_utf8(reply_to_unreadable_head(theirs, open).unwrap()).unwrap();
        assert!(!ours(false).contains("access-control"), "{}", ours(false));
        let ours = ours(true);
        assert!(ours.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{ours}");
        assert!(ours.ends_with('}') && ours.contains("\"recovery\":\"giveUp\""), "{ours}");
        for other in ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n{}", "4", "\u{ff}"]
        {
            assert_eq!(reply_to_unreadable_head(other.as_bytes(), true), None, "{other}");
        }
    }
}
