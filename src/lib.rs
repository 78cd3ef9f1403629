//! Catbird MLS delivery service: orders opaque MLS messages (RFC 9420, RFC 9750) and decides which commit wins an epoch.
//!
//! Clients hold the keys. The server stores, orders and hands out what they send, over AT Protocol XRPC
//! (`/xrpc/blue.catbird.mls.*`), to people who sign in with their DID. Replicas are stateless; PostgreSQL is the arbiter.
//!
//! # The way of a request
//!
//! ```text
//! request  xrpc  ->  api  ->  commands  ->  serializer  ->  store (Exclusive)  ->  sql  ->  PostgreSQL
//!                      \------ reads -------------------->  store (Reader)     ->  sql  ->  PostgreSQL
//! event    the committed row  ->  hint  ->  tail  ->  hub  ->  stream  ->  client
//! ```
//!
//! - [`connection`] is under the HTTP library: it hands requests over one by one, and times each head and each reply.
//! - [`xrpc`] checks the token ([`auth`]) and how often its bearer asks ([`limits`]), decodes, answers, and knows no method.
//! - [`api`] has one file per method. It reads, and it builds commands; it never writes a conversation by itself.
//! - [`commands`] are the use cases as data. Each moves or holds the conversation's position first.
//! - [`serializer`] decides who writes a conversation next: PostgreSQL's advisory lock, or an actor in this process
//!   ([`actors`]). Nobody else knows which.
//! - [`events`] brings what was committed to those who follow, by streams that lose nothing.
//! - [`store`] owns every transaction. What decides is a compare-and-swap or a constraint in `sql/`, never memory.
//!
//! Beside the requests run, in [`background`]:
//!
//! - [`jobs`] deletes what is old.
//! - [`delivery`] hands entries of the log to members' mailboxes.
//! - [`quotas`] adds up what each person has used of its quotas at all replicas.
//! - [`suspensions`] learns whom an operator has shut out.
//!
//! # What holds
//!
//! Twelve promises, P1 to P12, are listed in the README for those who write clients. Tests carry the number of the promise
//! that they prove, and [`check`] proves those that a database can show on a live one.
//!
//! # Where things are decided
//!
//! [`config`] reads the environment, [`app`] puts the parts together, [`server`] opens and closes the doors, [`error`] is the
//! closed table of everything that can go wrong, [`lexicons`] is the contract, [`mls`] is all that is looked at in MLS bytes.

pub mod actors;
pub mod api;
pub mod app;
pub mod auth;
pub mod background;
pub mod bytes;
pub mod check;
pub mod clock;
pub mod commands;
pub mod config;
pub mod connection;
pub mod cors;
pub mod delivery;
pub mod embedded;
pub mod error;
pub mod events;
mod exposition;
pub mod health;
pub mod hex;
pub mod ids;
pub mod jobs;
pub mod lexicons;
pub mod lifecycle;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod mls;
pub mod net;
pub mod nsid;
pub mod probe;
pub mod quotas;
pub mod redis;
pub mod serializer;
pub mod server;
pub mod store;
pub mod streaming;
pub mod suspensions;
pub mod telemetry;
pub mod timing;
pub mod wire;
pub mod xrpc;
