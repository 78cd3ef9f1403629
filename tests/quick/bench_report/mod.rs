//! The report of `cargo bench`: medians, ratios within a round, verdicts, the table, and the page.
//!
//! The run is invented, because measured figures differ every time.

mod fixture;

mod arithmetic;
mod page;
mod terminal;
