//! The methods, one by one, as members of conversations meet them: every file of `src/api` has its counterpart here, and
//! what holds for all methods alike (strangers, repetition, bad input, the protocol around them) has files of its own.
//!
//! Whatever depends on how writes are serialised runs with either serializer. Every reply is validated against the lexicon
//! documents, and every test proves the invariants on the database that it leaves behind.

mod support;

#[macro_use]
#[path = "api/harness.rs"]
mod harness;

#[path = "api/bad_input/mod.rs"]
mod bad_input;
#[path = "api/bad_mls.rs"]
mod bad_mls;
#[path = "api/connections.rs"]
mod connections;
#[path = "api/convos/mod.rs"]
mod convos;
#[path = "api/cors.rs"]
mod cors;
#[path = "api/decoders.rs"]
mod decoders;
#[path = "api/epochs/mod.rs"]
mod epochs;
#[path = "api/events/mod.rs"]
mod events;
#[path = "api/key_packages/mod.rs"]
mod key_packages;
#[path = "api/logs.rs"]
mod logs;
#[path = "api/mailboxes/mod.rs"]
mod mailboxes;
#[path = "api/messages/mod.rs"]
mod messages;
#[path = "api/once.rs"]
mod once;
#[path = "api/room.rs"]
mod room;
#[path = "api/strangers.rs"]
mod strangers;
#[path = "api/timing.rs"]
mod timing;
#[path = "api/welcomes/mod.rs"]
mod welcomes;
#[path = "api/xrpc.rs"]
mod xrpc;
