//! Catbird MLS delivery service: orders opaque MLS messages (RFC 9420, RFC 9750) and decides which commit wins an epoch.
//!
//! Clients hold the keys. The server stores, orders and hands out what they send, over AT Protocol XRPC
//! (`/xrpc/blue.catbird.mls.*`), to people who sign in with their DID. Replicas are stateless; PostgreSQL is the arbiter.
//!
//! # Data flow
//!
//! ```text
//! request  xrpc  ->  api  ->  commands  ->  serializer  ->  store (Exclusive)  ->  sql  ->  PostgreSQL
//!                      \------ reads -------------------->  store (Reader)     ->  sql  ->  PostgreSQL
//! event    committed row  ->  tail  ->  hub  ->  stream  ->  streaming  ->  client
//! ```
//!
//! Fifteen promises to clients, P1 to P15, are listed in the README. A test carries the number of the promise that it proves, and
//! [`check`] verifies those that a database can show.
//!
//! # Modules
//!
//! A module uses only what is listed below it. A test checks that (`tests/architecture.rs`), and that this list is the directory
//! listing.
//!
//! The process:
//!
//! - [`server`] starts the listeners and workers, limits connections, and drains at the end.
//! - [`lexicons`] serves the contract: the lexicon documents and the OpenAPI document.
//! - [`health`] serves the pages for operators.
//!
//! Requests and streams:
//!
//! - [`api`] has one file per method. A method reads, and builds commands; it never writes a conversation itself.
//! - [`streaming`] writes an open stream of events as HTTP.
//! - [`xrpc`] authenticates, limits, decodes, answers, and knows no method.
//! - [`app`] puts the parts together, and is the only place that chooses a serializer.
//!
//! Commands of operators:
//!
//! - [`admin`] looks up, suspends, erases, deletes and exports, and records who did it.
//!
//! Work:
//!
//! - [`check`] verifies a live database.
//! - [`doctor`] finds settings and states under which a promise does not hold.
//! - [`serializer`] is the one door for writes: limits, then the advisory lock or the actors. No other module knows which.
//! - [`suspensions`] refuses callers that an operator has suspended, and ends their streams.
//! - [`advisory`] queues commands before the conversations' advisory locks, and runs them in batches.
//! - [`actors`] serializes the commands of a conversation in this process.
//! - `batching` has what both share: a pending command with its reply channel, the limits, and the run of a batch.
//! - [`events`] brings committed rows to the streams that follow them, without loss.
//! - [`quotas`] counts what each caller uses at all replicas together.
//! - [`commands`] are the use cases as data. Each is one statement, or moves or locks the position of a conversation first.
//! - [`auth`] verifies tokens and tickets.
//! - [`delivery`] delivers log entries to mailboxes.
//! - [`jobs`] deletes what is old.
//! - [`probe`] checks the database for [`health`].
//! - `replicas` keeps the row of this replica, for [`doctor`].
//! - [`bodies`] puts the ciphertexts of large messages into the blob store, and reads them from there.
//! - [`store`] owns every transaction. A compare-and-swap or a constraint in `sql/` decides, never memory.
//!
//! Resources and formats:
//!
//! - [`connection`] sits below the HTTP library, hands it one request at a time, and limits the time of heads and replies.
//! - [`limits`] limits requests, writes, commits, uploads and downloads.
//! - [`memory`] limits the bytes of bodies and replies.
//! - [`mls`] parses as much of MLS as the server must see.
//! - [`objects`] stores blobs in a folder or in a bucket.
//! - [`error`] is the closed table of errors.
//! - [`config`] reads the environment.
//! - [`wire`] has the shapes that several methods return.
//! - [`redis`] is the optional connection to Redis.
//! - [`timing`] measures the stages of a request, and holds its deadline.
//! - [`embedded`] runs a private PostgreSQL.
//! - [`trace`] records the spans of requests, and exports them to a collector.
//!
//! Values and tools:
//!
//! - [`background`] starts and stops long-lived tasks.
//! - [`bytes`] reads and writes binary values in JSON.
//! - [`clock`] is the injected time.
//! - [`cors`] lets pages of other origins call the methods.
//! - `exposition` writes metrics in Prometheus' older format.
//! - [`hex`] reads and writes hex.
//! - [`ids`] are the identifiers that travel through every layer.
//! - [`lifecycle`] is the phase of the server: starting, serving or draining.
//! - [`metrics`] is the registry and the page of metrics.
//! - [`net`] has TLS and the check of addresses for outgoing connections.
//! - [`nsid`] are the names of methods.
//! - [`telemetry`] sets up logging.

mod actors;
pub mod admin;
mod advisory;
pub mod api;
pub mod app;
pub mod auth;
pub mod background;
mod batching;
pub mod bodies;
pub mod bytes;
pub mod check;
pub mod clock;
mod commands;
pub mod config;
mod connection;
mod cors;
pub mod delivery;
pub mod doctor;
pub mod embedded;
pub mod error;
pub mod events;
mod exposition;
mod health;
pub mod hex;
pub mod ids;
pub mod jobs;
pub mod lexicons;
pub mod lifecycle;
pub mod limits;
pub mod memory;
pub mod metrics;
pub mod mls;
mod net;
pub mod nsid;
pub mod objects;
mod probe;
mod quotas;
pub mod redis;
mod replicas;
mod serializer;
pub mod server;
pub mod store;
pub mod streaming;
pub mod suspensions;
pub mod telemetry;
mod timing;
pub mod trace;
pub mod wire;
pub mod xrpc;
