//! Tests of the methods as members of conversations use them. Each file of `src/api` has its counterpart here; rules
//! for all methods (strangers, retries, bad input, the protocol) have files of their own.
//!
//! Tests that depend on how writes are serialised run with both serializers. Every reply is validated against the
//! lexicon documents, and every test checks the invariants of the database that it leaves behind.

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
