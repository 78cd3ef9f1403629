//! An open stream of events as HTTP: server-sent events, or a WebSocket.
//!
//! Both are bodies of replies. The connection asks a body for more when it has room, and the body takes it from the stream then. So
//! nothing waits here, and the bounds of the hub are the only ones.
//!
//! - `drain` takes what waits in a stream and hands it to a framing, one chunk at a time.
//! - [`sse`] and [`websocket`] are the two framings; [`frames`] has the messages of a WebSocket, [`gzip`] the encoding of an SSE stream.
//! - `heartbeat` finds out whether the client of a WebSocket is still there, `frame_quota` limits what it sends.

mod drain;
mod frame_quota;
pub(crate) mod frames;
pub(crate) mod gzip;
mod heartbeat;
pub(crate) mod sse;
pub mod websocket;

pub use frame_quota::MAX_FRAMES;
pub use heartbeat::{PING_KEEPALIVES, PONG_KEEPALIVES};
pub use sse::Sse;
pub use websocket::WebSocket;
