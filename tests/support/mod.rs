//! What the integration tests share. Each test file is a crate of its own and uses a part of it.
#![allow(dead_code, reason = "no test crate uses all of the support")]

pub mod account;
pub mod app;
pub mod chaos;
pub mod client;
pub mod cluster;
pub mod directory;
pub mod fleet;
pub mod lexicon;
pub mod load;
pub mod pgbouncer;
pub mod proxy;
pub mod receiver;
pub mod redis;
