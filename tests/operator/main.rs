//! The operator's side: the schema, the private PostgreSQL, the subcommands, the pages, and what retention deletes. The throw-away
//! clusters of the tests are proved here too.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod admin;
mod check;
mod cluster;
mod doctor;
mod embedded;
mod migrations;
mod monitoring;
mod operations;
mod postgres;
mod recovery;
mod retention;
mod upgrades;
