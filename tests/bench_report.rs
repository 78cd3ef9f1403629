//! Proves what `cargo bench` says about its figures: medians, ratios within a round, verdicts, the table, and the page.
//!
//! The run is made up, because a measured one differs every time.

#[path = "bench_report/fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/support/report/mod.rs"]
mod report;
#[allow(dead_code, reason = "the benches use the rest")]
#[path = "../benches/support/results.rs"]
mod results;

#[path = "bench_report/arithmetic.rs"]
mod arithmetic;
#[path = "bench_report/page.rs"]
mod page;
#[path = "bench_report/terminal.rs"]
mod terminal;
