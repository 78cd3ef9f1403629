pub mod actors;
pub mod api;
pub mod app;
pub mod auth;
pub mod check;
pub mod clock;
pub mod commands;
pub mod config;
pub mod embedded;
pub mod error;
pub mod health;
pub mod ids;
pub mod lexicons;
pub mod metrics;
pub mod mls;
pub mod serializer;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod views;
pub mod xrpc;

// The tests of the actors use the same throw-away databases as the integration tests, which name this crate from outside.
#[cfg(test)]
extern crate self as catbird_server;
#[cfg(test)]
#[allow(dead_code, reason = "the integration tests use the rest")]
#[path = "../tests/support/cluster.rs"]
mod cluster;
