//! Support for the scenarios. From the bottom up: [`stage`] owns the processes and databases, and [`seed`] fills them.
//! [`generator`] creates load over HTTP with requests from [`http`], [`tokens`] and [`mls`]; [`yardstick`] creates it with
//! pgbench. [`measurement`] computes figures, [`catbird_bench_report::results`] stores them, and [`targets`] compares them
//! with the goals. A scenario uses all of it through [`bench::Bench`].

pub mod bench;
pub mod generator;
pub mod http;
pub mod machine;
pub mod measurement;
pub mod meters;
pub mod mix;
pub mod mls;
pub mod plan;
pub mod processes;
pub mod queueing;
pub mod responder;
pub mod seed;
pub mod server;
pub mod server_timing;
pub mod stage;
pub mod targets;
pub mod tokens;
pub mod yardstick;

/// The reason why a bench cannot continue, for the person who started it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T> = std::result::Result<T, Failure>;
