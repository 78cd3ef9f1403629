//! The report of `cargo bench`: medians, ratios within a round, verdicts, the table, and the page.
//!
//! The run is invented, because measured figures differ every time.

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
