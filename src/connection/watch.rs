//! Reports the progress of requests to their connection.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_http::{BoxedPayloadStream, ConnectionType};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::{StatusCode, header};
use actix_web::web::Bytes;
use futures_util::Stream;

use super::{Connection, Left};

/// Marks the start of a request: from now on its body is read on demand.
pub fn begin(request: &mut ServiceRequest) -> Option<Connection> {
    let connection = request.conn_data::<Connection>()?.clone();
    let left = left(request);
    connection.begin(left);
    if left != Left::Nothing {
        let payload = std::mem::replace(request.parts_mut().1, Payload::None);
        let wanted: BoxedPayloadStream = Box::pin(Wanted { payload, connection: connection.clone() });
        request.set_payload(wanted.into());
    }
    Some(connection)
}

/// Marks the answer to a request: the next one is read once the reply is sent. After a body that was not read there is
/// no next one.
pub fn answer(response: ServiceResponse<BoxBody>, connection: Option<Connection>) -> ServiceResponse<Watched> {
    response.map_body(|head, body| {
        if let Some(connection) = &connection {
            connection.reply(!matches!(body.size(), BodySize::Stream));
            if connection.0.left.get() != Left::Nothing && head.status != StatusCode::SWITCHING_PROTOCOLS {
                head.set_connection_type(ConnectionType::Close);
            }
        }
        Watched { body, connection }
    })
}

/// Returns what the library takes for the request's body.
fn left(request: &ServiceRequest) -> Left {
    let headers = request.headers();
    if headers.contains_key(header::TRANSFER_ENCODING) {
        return Left::Chunks;
    }
    if asks_for_websocket(headers) || *request.method() == actix_web::http::Method::CONNECT {
        return Left::Everything;
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.trim().parse().ok());
    match length {
        None | Some(0) => Left::Nothing,
        Some(bytes) => Left::Bytes(bytes),
    }
}

/// Returns true if the library does not read the bytes after the head as HTTP.
pub fn asks_for_websocket(headers: &header::HeaderMap) -> bool {
    let named =
        |value: &header::HeaderValue| value.to_str().is_ok_and(|name| name.trim().eq_ignore_ascii_case("websocket"));
    headers.get_all(header::UPGRADE).any(named)
}

/// A body that is read from the connection on demand.
struct Wanted {
    payload: Payload,
    connection: Connection,
}

impl Stream for Wanted {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = Pin::new(&mut this.payload).poll_next(cx);
        match &next {
            Poll::Pending => this.connection.want_body(),
            Poll::Ready(None) => this.connection.body_ended(),
            Poll::Ready(Some(_)) => {}
        }
        next
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.connection.no_more_body();
    }
}

/// Body of a reply.
pub struct Watched {
    body: BoxBody,
    connection: Option<Connection>,
}

impl MessageBody for Watched {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.connection.iter().for_each(Connection::replied);
    }
}
