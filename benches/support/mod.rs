//! What the scenarios stand on. From the ground up: [`stage`] owns the processes and databases, [`seed`] fills them,
//! [`generator`] makes load over HTTP with requests from [`http`], [`tokens`] and [`mls`], [`yardstick`] makes it with pgbench,
//! [`measurement`] turns either into figures, [`catbird_bench_report::results`] is what is kept of them, [`targets`] holds them against what was
//! promised. A scenario sees all of it through [`bench::Bench`].

pub mod bench;
pub mod generator;
pub mod http;
pub mod machine;
pub mod measurement;
pub mod mix;
pub mod mls;
pub mod plan;
pub mod responder;
pub mod seed;
pub mod server;
pub mod stage;
pub mod targets;
pub mod tokens;
pub mod yardstick;

/// The reason why a bench cannot continue, for the person who started it.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub type Result<T> = std::result::Result<T, Failure>;
