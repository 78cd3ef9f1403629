//! Tests of the methods as members of conversations use them. Each file of `src/api` has its counterpart here; rules
//! for all methods (strangers, retries, bad input, the protocol) have files of their own.
//!
//! Tests that depend on how writes are serialised run with both serializers. Every reply is validated against the
//! lexicon documents, and every test checks the invariants of the database that it leaves behind.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

#[macro_use]
mod harness;

mod auth;
mod bad_input;
mod bad_mls;
mod blobs;
mod blobs_http;
mod clients;
mod connections;
mod convos;
mod cors;
mod decoders;
mod devices;
mod epochs;
mod events;
mod examples;
mod group_ids;
mod group_infos;
mod interop;
mod key_packages;
mod limits;
mod logs;
mod mailboxes;
mod messages;
mod once;
mod readditions;
mod room;
mod scenarios;
mod strangers;
mod timing;
mod traces;
mod welcomes;
mod xrpc;
