//! What a client is told of a head that is none. The HTTP library answers it by itself, with a status and no body, before anything else here
//! sees a request; every error of this server has a body.

use serde_json::json;

use crate::error::Code;
use crate::xrpc::told;

/// The reply in place of `bytes`, if these are the library's own to a head that it has made no request of.
pub(super) fn instead_of(bytes: &[u8]) -> Option<Vec<u8>> {
    let reply = std::str::from_utf8(bytes).ok()?;
    let (line, fields) = reply.strip_prefix("HTTP/1.1 ")?.split_once("\r\n")?;
    if !line.starts_with('4') || !fields.ends_with("\r\n\r\n") {
        return None;
    }
    let message = match line.get(..3)? {
        "431" => "the head of the request is too large: it has more than 128 KiB or more than 96 headers",
        "408" => "the request did not come in time",
        _ => "this is no request of HTTP/1.1, or its address is longer than 64 KiB",
    };
    let error = Code::InvalidRequest.because(message);
    let body = json!({ "error": error.code.name(), "message": told(&error, None), "recovery": error.code.recovery() });
    let body = body.to_string();
    let length = body.len();
    Some(
        format!(
            "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
             x-content-type-options: nosniff\r\naccess-control-allow-origin: *\r\nconnection: close\r\n\r\n{body}"
        )
        .into_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_librarys_own_refusals_are_replaced() {
        let theirs = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let ours = String::from_utf8(instead_of(theirs).unwrap()).unwrap();
        assert!(ours.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{ours}");
        assert!(ours.ends_with('}') && ours.contains("\"recovery\":\"giveUp\""), "{ours}");
        for other in ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HTTP/1.1 404 Not Found\r\n\r\n{}", "4", "\u{ff}"]
        {
            assert_eq!(instead_of(other.as_bytes()), None, "{other}");
        }
    }
}
