//! Tests that need no server: the contract, the migrations, the dependencies, the containers, the MLS clients and
//! the ports of the tests, and the report of the benches.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod bench_report;
mod containers;
mod dependencies;
mod lexicons;
mod migrations;
mod mls_client;
mod monitoring;
mod ports;
mod two_libraries;
