//! An event stream over a WebSocket: each message is two DAG-CBOR objects, as in AT Protocol.

use futures_util::{SinkExt, StreamExt};
use ipld_core::ipld::Ipld;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::reply::bytes_value;
use super::{Reply, XrpcError};

/// Maximum size of a message: an event of 10 MiB, with its frame.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// One message of the server.
#[derive(Debug, Clone)]
pub enum Frame {
    /// The header's `t`, and the payload.
    Event(String, Value),
    /// The error's name and sentence. The server closes after it.
    Error(String, String),
    /// Close frame of the server: code and reason.
    Closed(u16, String),
}

/// An open WebSocket. The library answers pings while it is read.
pub struct Socket {
    nsid: String,
    pub stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Number of pings from the server.
    pub pings: u64,
}

impl Socket {
    /// Opens a WebSocket at an http address, or reads the reply that refuses it.
    pub(super) async fn open(nsid: &str, mut url: Url) -> Result<Result<Self, Reply>, XrpcError> {
        let broken = |why: &dyn ToString| XrpcError::Socket { nsid: nsid.to_owned(), why: why.to_string() };
        url.set_scheme("ws").map_err(|()| broken(&"no ws address"))?;
        let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        match tokio_tungstenite::connect_async_with_config(url.as_str(), Some(config), true).await {
            Ok((stream, _)) => Ok(Ok(Self { nsid: nsid.to_owned(), stream, pings: 0 })),
            Err(Error::Http(response)) => {
                let (parts, body) = response.into_parts();
                let text = String::from_utf8_lossy(&body.unwrap_or_default()).into_owned();
                Ok(Err(Reply {
                    nsid: nsid.to_owned(),
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    body: serde_json::from_str(&text).unwrap_or(Value::Null),
                    text,
                }))
            }
            Err(why) => Err(broken(&why)),
        }
    }

    /// Returns the next message; `None` when the connection has ended after the server's close. Waits without a limit.
    pub async fn next(&mut self) -> Result<Option<Frame>, XrpcError> {
        loop {
            let broken = |why: String| XrpcError::Socket { nsid: self.nsid.clone(), why };
            match self.stream.next().await.transpose() {
                Ok(Some(Message::Binary(bytes))) => return decode(&bytes).map(Some).map_err(broken),
                Ok(Some(Message::Ping(_))) => self.pings += 1,
                Ok(Some(Message::Pong(_))) => {}
                Ok(Some(Message::Close(frame))) => {
                    let CloseFrame { code, reason } =
                        frame.ok_or_else(|| broken("closed without a code".to_owned()))?;
                    return Ok(Some(Frame::Closed(code.into(), reason.to_string())));
                }
                Ok(Some(other)) => return Err(broken(format!("the server sent {other:?}"))),
                Ok(None) => return Ok(None),
                Err(why) => return Err(broken(why.to_string())),
            }
        }
    }

    /// Sends a message unchanged.
    pub async fn send(&mut self, message: Message) -> Result<(), XrpcError> {
        let sent = self.stream.send(message).await;
        sent.map_err(|why| XrpcError::Socket { nsid: self.nsid.clone(), why: why.to_string() })
    }
}

/// Encodes a value in DAG-CBOR.
pub fn cbor(value: &Value) -> Vec<u8> {
    serde_ipld_dagcbor::to_vec(value).expect("JSON has nothing that CBOR lacks")
}

/// Decodes header and payload. Nothing may follow, and both must be in canonical form.
fn decode(bytes: &[u8]) -> Result<Frame, String> {
    let mut rest = bytes;
    let mut part = || -> Result<Value, String> {
        let before = rest;
        let object: Ipld = serde_ipld_dagcbor::de::from_reader_once(&mut rest).map_err(|why| why.to_string())?;
        let taken = &before[..before.len() - rest.len()];
        if serde_ipld_dagcbor::to_vec(&object).map_err(|why| why.to_string())? != taken {
            return Err("an object is not in canonical form".to_owned());
        }
        json_of(object)
    };
    let (header, payload) = (part()?, part()?);
    if !rest.is_empty() {
        return Err(format!("{} bytes follow a message", rest.len()));
    }
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{header} {payload}"));
    match header["op"].as_i64() {
        Some(1) if header.as_object().is_some_and(|header| header.len() == 2) => {
            Ok(Frame::Event(text(&header["t"])?, payload.clone()))
        }
        Some(-1) if header.as_object().is_some_and(|header| header.len() == 1) => {
            Ok(Frame::Error(text(&payload["error"])?, text(&payload["message"])?))
        }
        _ => Err(format!("no header of an event stream: {header}")),
    }
}

/// Converts to JSON in AT Protocol's data model, which has no floats.
fn json_of(object: Ipld) -> Result<Value, String> {
    Ok(match object {
        Ipld::Null => Value::Null,
        Ipld::Bool(flag) => json!(flag),
        Ipld::Integer(number) => json!(i64::try_from(number).map_err(|why| why.to_string())?),
        Ipld::String(text) => json!(text),
        Ipld::Bytes(bytes) => bytes_value(&bytes),
        Ipld::List(items) => items.into_iter().map(json_of).collect::<Result<_, _>>()?,
        Ipld::Map(fields) if fields.contains_key("$bytes") => return Err("bytes in the form of JSON".to_owned()),
        Ipld::Map(fields) => {
            let fields = fields.into_iter().map(|(name, value)| Ok::<_, String>((name, json_of(value)?)));
            Value::Object(fields.collect::<Result<_, _>>()?)
        }
        Ipld::Float(_) | Ipld::Link(_) => return Err("a float or a link".to_owned()),
    })
}
