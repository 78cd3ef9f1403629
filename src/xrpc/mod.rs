//! The XRPC protocol kit (<https://atproto.com/specs/xrpc>): what an endpoint is, how a request reaches it, and how
//! replies and errors look. It knows no method.

mod body;
mod conflict;
pub mod decode;
mod download;
mod encoding;
mod endpoint;
mod epoch_procedure;
mod intake;
mod pipeline;
mod reply;
mod request_id;
mod selection;
mod unreadable;
mod upload;

pub use conflict::Conflict;
pub use download::{Content, Download, Source};
pub use endpoint::{Caller, Endpoint, Kind, ReplyKind, Route, Subscription, TicketHolder};
pub use epoch_procedure::EpochProcedure;
pub use pipeline::dispatch;
pub use reply::{Reply, Upgrade, error_body, error_response, message_with_details};
pub use request_id::RequestId;
pub use selection::Selection;
pub use unreadable::reply_to_unreadable_head;
pub use upload::{Upload, UploadBody};
