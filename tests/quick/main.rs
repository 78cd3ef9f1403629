//! Tests that need no server: the contract, the dependencies, the MLS client of the tests, and the report of the benches.

mod bench_report;
mod dependencies;
mod lexicons;
mod mls_client;
