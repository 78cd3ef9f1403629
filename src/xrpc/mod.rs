//! The XRPC protocol kit (<https://atproto.com/specs/xrpc>): what an endpoint is, how requests reach one, and how answers and
//! errors look. It knows no method.

mod conflict;
pub mod decode;
mod endpoint;
pub mod gzip;
mod heavy;
mod intake;
mod metrics;
mod pipeline;
mod reply;
mod reply_room;
mod request_id;
pub mod room;

pub use conflict::{Conflict, Judged};
pub use endpoint::{Caller, Endpoint, Guest, Kind, Route, Subscription, Tells};
pub use heavy::Heavy;
pub use metrics::XrpcMetrics;
pub use pipeline::dispatch;
pub use reply::{Answer, Upgrade, error_body, error_response, told};
pub use reply_room::ReplyRoom;
pub use request_id::RequestId;
