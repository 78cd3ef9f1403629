//! The table in the terminal: a line for each load and number of connections, then the targets. At most 140 columns.

use std::fmt::Write;

use super::figures::{
    Figures, extra, extras, groups, label, measure, ms, notes, number, percent, spread, times, warnings,
};
use super::name;
use crate::results::{Kind, Run, Target, Who};

/// Maximum width of the column of names, and of that of targets.
const LONGEST_LABEL: usize = 34;
const LONGEST_TARGET: usize = 66;
/// Maximum width of a line of prose.
const WIDE: usize = 120;

/// Whether the text may contain escape sequences.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colours,
}

/// Returns the whole text, ending with a line feed.
pub fn table(run: &Run, paint: Paint) -> String {
    let mut text = String::from("\n");
    for warning in warnings(run) {
        line(&mut text, &paint.bad(&warning));
    }
    for part in wrapped(&format!("servers: {}", run.configuration)) {
        line(&mut text, &part);
    }
    loads(&mut text, run, paint);
    generator(&mut text, run);
    beside(&mut text, run);
    for note in notes(run) {
        line(&mut text, &format!("note: {note}"));
    }
    if !run.targets.is_empty() {
        targets(&mut text, &run.targets, paint);
    }
    text
}

/// Rates are per second, latencies milliseconds as p50/p99, `gen` is the load generator's share of a core, `×` the
/// ratio to the yardstick.
fn loads(text: &mut String, run: &Run, paint: Paint) {
    let groups: Vec<_> = groups(run).into_iter().filter(|group| group.who().any(|who| who != Who::Generator)).collect();
    let wide = groups.iter().map(|group| label(group.scenario, group.variant).chars().count()).max();
    let wide = wide.unwrap_or(0).clamp(8, LONGEST_LABEL);
    let server = |who| format!("{who:>9} {:>6} {:>11} {:>4}", "×", "p50/p99 ms", "gen");
    let (advisory, actors) = (server("Advisory"), server("Actors"));
    let head = format!(
        "{:<wide$} {:>5} {:<11} {:>9} {:>11}  {advisory}  {actors}",
        "load", "conns", "per second", "Yardstick", "p50/p99 ms"
    );
    line(text, &paint.strong(&head));
    for group in groups {
        let label = shorten(&label(group.scenario, group.variant), wide);
        let unit = shorten(group.unit.trim_end_matches("/s"), 11);
        for row in &group.rows {
            let (rate, latency, ..) = cells(row.figures(Who::Yardstick).as_ref());
            let server = |who| {
                let (rate, latency, ratio, cpu) = cells(row.figures(who).as_ref());
                format!("{rate:>9} {ratio:>6} {latency:>11} {cpu:>4}")
            };
            let (advisory, actors) = (server(Who::Advisory), server(Who::Actors));
            let connections = row.connections;
            line(
                text,
                &format!("{label:<wide$} {connections:>5} {unit:<11} {rate:>9} {latency:>11}  {advisory}  {actors}"),
            );
        }
    }
}

/// Rate, latency, ratio and the generator's share.
fn cells(figures: Option<&Figures>) -> (String, String, String, String) {
    let dash = || "-".to_owned();
    let Some(figures) = figures else { return (dash(), dash(), dash(), dash()) };
    (
        number(figures.rate),
        format!("{}/{}", ms(figures.p50_us), ms(figures.p99_us)),
        figures.ratio.map_or_else(dash, times),
        figures.client_cpu.map_or_else(dash, percent),
    )
}

/// The generator's own limit, to compare with its share above.
fn generator(text: &mut String, run: &Run) {
    for group in groups(run) {
        for figures in group.line(Who::Generator) {
            let what = label(group.scenario, group.variant);
            let (connections, rate) = (figures.series.connections, number(figures.rate));
            let cpu = figures.client_cpu.map_or_else(String::new, percent);
            let says = format!("{what} alone, {connections} connections: {rate} {}, {cpu} of a core", group.unit);
            line(text, &says);
        }
    }
}

/// Measurements besides rates and latencies: a line for each load and subject.
fn beside(text: &mut String, run: &Run) {
    for group in groups(run) {
        for figures in group.who().flat_map(|who| group.line(who)) {
            let series = figures.series;
            let says: Vec<String> = extras(series)
                .into_iter()
                .filter_map(|name| Some(format!("{} {}", name.replace('_', " "), number(extra(series, name)?.0))))
                .collect();
            if !says.is_empty() {
                let (load, connections) = (label(group.scenario, group.variant), series.connections);
                line(text, &format!("{load}, {}, {connections} connections: {}", name(series.who), says.join(", ")));
            }
        }
    }
}

fn targets(text: &mut String, targets: &[Target], paint: Paint) {
    let wide = targets.iter().map(|target| target.name.chars().count()).max().unwrap_or(0).min(LONGEST_TARGET);
    line(text, "");
    let head =
        format!("{:<wide$}  {:<9}  {:>8}  {:>15}  {:>17}  verdict", "target", "of", "measured", "rounds", "has to be");
    line(text, &paint.strong(&head));
    for target in targets {
        let verdict = verdict(target);
        let verdict = if target.is_met() { paint.good(verdict) } else { paint.bad(verdict) };
        let bound = format!("{} {:>8}", direction(target.kind), measure(target.bound, &target.unit));
        let (name, who) = (shorten(&target.name, wide), name(target.who));
        let (measured, rounds) = (measure(target.measured, &target.unit), spread(target.rounds, &target.unit));
        line(text, &format!("{name:<wide$}  {who:<9}  {measured:>8}  {rounds:>15}  {bound:>17}  {verdict}"));
    }
}

/// The verdict in words, also for the page.
pub fn verdict(target: &Target) -> &'static str {
    match (target.is_met(), target.reaches_aim()) {
        (true, true) => "aim reached",
        (true, false) => "reached",
        (false, _) => "not reached",
    }
}

/// The verdict in words, also for the page.
pub fn direction(kind: Kind) -> &'static str {
    match kind {
        Kind::AtLeast => "at least",
        Kind::AtMost => "at most",
    }
}

fn line(text: &mut String, content: &str) {
    writeln!(text, "{}", content.trim_end()).expect("a string takes everything");
}

/// Splits prose into lines.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut().filter(|line| line.chars().count() + 1 + word.chars().count() <= WIDE) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn shorten(text: &str, wide: usize) -> String {
    if text.chars().count() <= wide {
        return text.to_owned();
    }
    text.chars().take(wide - 1).chain(['…']).collect()
}

impl Paint {
    fn strong(self, text: &str) -> String {
        self.code("1", text)
    }

    fn good(self, text: &str) -> String {
        self.code("32", text)
    }

    fn bad(self, text: &str) -> String {
        self.code("31", text)
    }

    fn code(self, code: &str, text: &str) -> String {
        match self {
            Paint::Plain => text.to_owned(),
            Paint::Colours => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}
