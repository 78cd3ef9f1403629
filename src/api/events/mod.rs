//! Following conversations as they go on.

pub mod send_typing_indicator;
pub mod stream_convo_events;
