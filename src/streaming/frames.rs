//! Messages of a WebSocket, as AT Protocol's event streams have them (<https://atproto.com/specs/event-stream>). Each is binary and
//! holds two objects in DAG-CBOR: a header with the type, and the payload. Clients send one object, as DAG-CBOR or as JSON.

use actix_web::web::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::events::cursor::Cursor;
use crate::events::event::Published;
use crate::ids::ConvoId;
use crate::nsid;
use crate::xrpc::message_with_details;

/// Method of the stream, which prefixes the types of its events.
const METHOD: &str = nsid::SUBSCRIBE_CONVO_EVENTS;

#[derive(Serialize)]
struct Header<'a> {
    op: i8,
    #[serde(skip_serializing_if = "Option::is_none")]
    t: Option<&'a str>,
}

#[derive(Serialize)]
struct Failure {
    error: &'static str,
    message: String,
}

#[derive(Serialize)]
struct Pong {
    #[serde(rename = "$type")]
    kind: String,
    cursor: String,
}

/// Returns the message of an event.
pub fn event(event: &Published, cursor: &Cursor) -> Bytes {
    let t = format!("#{}", event.event.name());
    message(&Header { op: 1, t: Some(&t) }, &event.view(METHOD, cursor))
}

/// Returns the last message of a stream that failed.
pub fn error(error: &Error) -> Bytes {
    message(
        &Header { op: -1, t: None },
        &Failure { error: error.code.name(), message: message_with_details(error, None) },
    )
}

/// Returns the message that carries a cursor alone: the first of a stream, and the reply to [`FromClient::Ping`].
pub fn pong(cursor: &Cursor) -> Bytes {
    let kind = format!("{METHOD}#pongEvent");
    message(&Header { op: 1, t: Some("#pongEvent") }, &Pong { kind, cursor: cursor.to_string() })
}

fn message(header: &Header<'_>, payload: &impl Serialize) -> Bytes {
    let mut bytes = Vec::new();
    let written = serde_ipld_dagcbor::to_writer(&mut bytes, header)
        .and_then(|()| serde_ipld_dagcbor::to_writer(&mut bytes, payload));
    written.expect("texts, numbers, flags and bytes are DAG-CBOR, and a Vec takes all that is written to it");
    bytes.into()
}

/// Message of a client.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "$type", rename_all_fields = "camelCase")]
pub enum FromClient {
    /// The client is typing, or has stopped.
    #[serde(rename = "blue.catbird.mls.subscribeConvoEvents#typing")]
    Typing { convo_id: ConvoId, is_typing: bool },
    /// The client has processed the entries up to `seq`: of `convo_id`, or of the only conversation of the stream.
    #[serde(rename = "blue.catbird.mls.subscribeConvoEvents#ack")]
    Ack { convo_id: Option<ConvoId>, seq: i64 },
    /// The client asks for a reply.
    #[serde(rename = "blue.catbird.mls.subscribeConvoEvents#ping")]
    Ping {},
    /// A message that this version does not know.
    #[serde(other)]
    Unknown,
}

impl FromClient {
    /// Parses a text message. The error is a sentence.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        // serde would also accept a list of the fields' values in their order.
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(b'{') => serde_json::from_slice(bytes).map_err(|why| why.to_string()),
            _ => Err("it must be an object".to_owned()),
        }
    }

    /// Parses a binary message. The error is a sentence.
    pub fn from_cbor(bytes: &[u8]) -> Result<Self, String> {
        // The major type of maps (RFC 8949, 3.1).
        match bytes.first() {
            Some(first) if first >> 5 == 5 => serde_ipld_dagcbor::from_slice(bytes).map_err(|why| why.to_string()),
            _ => Err("it must be an object".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::events::event::{Event, Info};

    #[test]
    fn a_message_is_a_header_and_a_payload_in_canonical_form() {
        let cursor = Cursor::nowhere();
        let info = Published::new(Event::Info { info: Info::Replayed, retry_after_ms: Some(500) }, cursor.clone());
        let mut expected = b"\xa2\x61t\x6a#infoEvent\x62op\x01".to_vec();
        // Shorter keys first, then by their bytes.
        expected.extend(b"\xa5\x64info\x68replayed\x65$type\x78\x2fblue.catbird.mls.subscribeConvoEvents#infoEvent");
        expected.extend(b"\x66cursor\x60\x6cretryAfterMs\x19\x01\xf4\x71serverIncarnation\x7096664e04fe104f4b");
        assert_eq!(event(&info, &cursor), expected);
        let failure = error(&Code::FutureCursor.because("no"));
        assert_eq!(&*failure, b"\xa1\x62op\x20\xa2\x65error\x6cFutureCursor\x67message\x77no [recovery=startAnew]");
    }

    #[test]
    fn messages_of_clients_are_read_in_both_forms() {
        let typing = format!(r#"{{"$type": "{METHOD}#typing", "convoId": "c", "isTyping": true}}"#);
        let said = FromClient::Typing { convo_id: "c".parse().unwrap(), is_typing: true };
        assert_eq!(FromClient::from_json(typing.as_bytes()).unwrap(), said);
        let value: serde_json::Value = serde_json::from_str(&typing).unwrap();
        assert_eq!(FromClient::from_cbor(&serde_ipld_dagcbor::to_vec(&value).unwrap()).unwrap(), said);
        let later = format!(r#"{{"$type": "{METHOD}#wave", "hand": [1, {{"a": null}}]}}"#);
        assert_eq!(FromClient::from_json(later.as_bytes()).unwrap(), FromClient::Unknown);
        let ping = format!(r#"{{"$type": "{METHOD}#ping"}}"#);
        assert_eq!(FromClient::from_json(ping.as_bytes()).unwrap(), FromClient::Ping {});
        let ack = format!(r#"{{"$type": "{METHOD}#ack", "seq": 7}}"#);
        assert_eq!(FromClient::from_json(ack.as_bytes()).unwrap(), FromClient::Ack { convo_id: None, seq: 7 });
    }

    #[test]
    fn garbage_is_an_error_however_deep() {
        let ack = format!("{METHOD}#ack");
        for text in ["", "{", "[]", "7", "{}", r#"{"$type": 7}"#, &format!(r#"["{ack}", "c", 7]"#), &"[".repeat(4_000)]
        {
            assert!(FromClient::from_json(text.as_bytes()).is_err(), "{text}");
        }
        for seq in ["1.5", "\"1\"", "null", "1e3", "18446744073709551615"] {
            let text = format!(r#"{{"$type": "{ack}", "convoId": "c", "seq": {seq}}}"#);
            assert!(FromClient::from_json(text.as_bytes()).is_err(), "{text}");
        }
        let mut nested = b"\xa1\x61a".to_vec();
        nested.extend([0x81; 4_000]);
        let mut maps = Vec::new();
        (0..1_300).for_each(|_| maps.extend(b"\xa1\x61a"));
        for bytes in [
            &b""[..],
            b"\xa1",
            b"\xbf\xff",
            b"\xa0",
            b"\xa0\xa0",
            b"\xff",
            b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
            &nested,
            &maps,
        ] {
            assert!(FromClient::from_cbor(bytes).is_err(), "{bytes:?}");
        }
    }
}
