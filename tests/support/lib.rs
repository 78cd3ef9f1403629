//! Kit of the integration tests and the benches: throw-away clusters, servers in this process and in others, fleets, faults, and a
//! validator of the lexicon documents. The client that speaks to the servers is [`catbird_client`].

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

pub mod account;
pub mod app;
pub mod balancer;
pub mod chaos;
pub mod cluster;
pub mod collector;
pub mod directory;
pub mod fleet;
pub mod host;
pub mod lexicon;
pub mod load;
pub mod page;
pub mod pgbouncer;
pub mod port;
pub mod proxy;
pub mod receiver;
pub mod redis;
pub mod s3;
