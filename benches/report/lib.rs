//! The report of a run: a table in the terminal and one HTML page with plots.
//!
//! The report depends only on a [`Run`], so a page can be created again from `results.json`. Nothing here measures, and
//! [`results`] decides whether a target is met. `benches/bench.rs` calls [`print()`] and [`write_html`] when a run ends;
//! `tests/quick/bench_report` checks both with a made-up run.

pub mod results;

mod figures;
mod html;
mod plots;
mod table;

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use crate::results::{Run, Who};

pub use html::page;
pub use table::{Paint, table};

/// Prints the table to standard output, with colours if that is a terminal.
pub fn print(run: &Run) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let paint = if out.is_terminal() { Paint::Colours } else { Paint::Plain };
    out.write_all(table(run, paint).as_bytes())
}

/// Writes the page, which needs no other file and no network.
pub fn write_html(run: &Run, path: &Path) -> io::Result<()> {
    std::fs::write(path, page(run))
}

/// Name of the subject for the reader.
pub fn name(who: Who) -> &'static str {
    match who {
        Who::Advisory => "Advisory",
        Who::Actors => "Actors",
        Who::Yardstick => "Yardstick",
        Who::Generator => "Generator",
    }
}
