//! Following conversations as they go on.

pub mod get_subscription_ticket;
pub mod send_typing_indicator;
pub mod stream_convo_events;
pub mod subscribe_convo_events;
