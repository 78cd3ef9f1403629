//! The rows of the table and of the page, and the format of figures.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::results::{Run, Series, Who, median};

/// Subjects in the order of the columns. The yardstick is first, because the others are divided by it.
pub const ORDER: [Who; 4] = [Who::Yardstick, Who::Advisory, Who::Actors, Who::Generator];

/// Loads with the same name, in the order of their first measurement.
pub struct Group<'a> {
    pub scenario: &'a str,
    pub variant: &'a str,
    pub unit: &'a str,
    /// By number of connections, ascending.
    pub rows: Vec<Row<'a>>,
}

/// One load at one number of connections, for all subjects.
pub struct Row<'a> {
    pub connections: u32,
    series: Vec<&'a Series>,
}

/// Summary of a series: medians over its rounds.
pub struct Figures<'a> {
    pub series: &'a Series,
    pub rate: f64,
    /// The slowest and the fastest round.
    pub rates: RangeInclusive<f64>,
    pub p50_us: f64,
    pub p99_us: f64,
    /// The median of the rounds' ratios to the yardstick; `None` for the yardstick itself and without one.
    pub ratio: Option<f64>,
    /// The load generator's share of one core; `None` if pgbench generated the load.
    pub client_cpu: Option<f64>,
}

/// All series, sorted into groups.
pub fn groups(run: &Run) -> Vec<Group<'_>> {
    let mut groups: Vec<Group> = Vec::new();
    for series in &run.series {
        let known = groups.iter().position(|g| g.scenario == series.scenario && g.variant == series.variant);
        let index = known.unwrap_or_else(|| {
            let Series { scenario, variant, unit, .. } = series;
            groups.push(Group { scenario, variant, unit, rows: Vec::new() });
            groups.len() - 1
        });
        let rows = &mut groups[index].rows;
        match rows.binary_search_by_key(&series.connections, |row| row.connections) {
            Ok(row) => rows[row].series.push(series),
            Err(row) => rows.insert(row, Row { connections: series.connections, series: vec![series] }),
        }
    }
    groups
}

impl<'a> Group<'a> {
    /// Subjects that were measured at any number of connections, in [`ORDER`].
    pub fn who(&self) -> impl Iterator<Item = Who> {
        ORDER.into_iter().filter(|who| self.rows.iter().any(|row| row.find(*who).is_some()))
    }

    /// Summaries of `who` by number of connections.
    pub fn line(&self, who: Who) -> Vec<Figures<'a>> {
        self.rows.iter().filter_map(|row| row.figures(who)).collect()
    }

    /// The row whose latencies are shown: with `preferred` connections, else with the most.
    pub fn row_at(&self, preferred: u32) -> Option<&Row<'a>> {
        self.rows.iter().find(|row| row.connections == preferred).or(self.rows.last())
    }
}

impl<'a> Row<'a> {
    /// The series of `who`.
    pub fn find(&self, who: Who) -> Option<&'a Series> {
        self.series.iter().find(|series| series.who == who).copied()
    }

    /// Summary of `who`; `None` if it was not measured or has no rounds.
    pub fn figures(&self, who: Who) -> Option<Figures<'a>> {
        let series = self.find(who)?;
        let yardstick = self.find(Who::Yardstick).filter(|_| who != Who::Yardstick);
        let lowest = series.samples.iter().map(|sample| sample.rate).reduce(f64::min)?;
        let highest = series.samples.iter().map(|sample| sample.rate).reduce(f64::max)?;
        Some(Figures {
            series,
            rate: series.median(|sample| sample.rate)?,
            rates: lowest..=highest,
            p50_us: series.median(|sample| sample.p50_us)?,
            p99_us: series.median(|sample| sample.p99_us)?,
            ratio: yardstick.and_then(|yardstick| series.ratio(yardstick, |sample| sample.rate)),
            client_cpu: series.median(|sample| sample.client_cpu_share).filter(|_| who != Who::Yardstick),
        })
    }
}

/// The notes of all series, each once, with its load.
pub fn notes(run: &Run) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for series in run.series.iter().filter(|series| !series.note.is_empty()) {
        let note = format!("{}: {}", label(&series.scenario, &series.variant), series.note);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}

/// Name of the generator's processor time per reply in µs. It is shown beside the generator's share, not among the
/// scenario's own figures.
pub const CLIENT_CPU: &str = "client_cpu_us";

/// Names of the scenario's own measurements.
pub fn extras(series: &Series) -> BTreeSet<&str> {
    let names = series.samples.iter().flat_map(|sample| sample.extra.keys()).map(String::as_str);
    names.filter(|name| *name != CLIENT_CPU).collect()
}

/// Median and range of a measurement over the rounds that have it.
pub fn extra(series: &Series, name: &str) -> Option<(f64, RangeInclusive<f64>)> {
    let found: Vec<f64> = series.samples.iter().filter_map(|sample| sample.extra.get(name).copied()).collect();
    let low = found.iter().copied().reduce(f64::min)?;
    let high = found.iter().copied().reduce(f64::max)?;
    Some((median(found)?, low..=high))
}

/// Warnings about the validity of the figures.
pub fn warnings(run: &Run) -> Vec<String> {
    let mut warnings = Vec::new();
    if !run.machine.optimised {
        warnings
            .push("The server was built without optimisation. These figures only show that the benches work.".into());
    }
    for series in &run.series {
        let failed: u64 = series.samples.iter().map(|sample| sample.failed).sum();
        if failed > 0 {
            let what = label(&series.scenario, &series.variant);
            let who = super::name(series.who);
            let connections = series.connections;
            warnings.push(format!("{what}, {who}, {connections} connections: {failed} requests failed."));
        }
    }
    warnings
}

/// Scenario and variant as one name.
pub fn label(scenario: &str, variant: &str) -> String {
    if variant.is_empty() { scenario.to_owned() } else { format!("{scenario} {variant}") }
}

/// A figure to three digits or the whole number, with commas between thousands: `0.0123`, `4.57`, `12,345`.
pub fn number(figure: f64) -> String {
    let size = figure.abs();
    match size {
        _ if !figure.is_finite() => "?".to_owned(),
        0.0 => "0".to_owned(),
        _ if size >= 99.95 => thousands(figure.round()),
        _ if size >= 9.995 => format!("{figure:.1}"),
        _ if size >= 0.9995 => format!("{figure:.2}"),
        _ if size >= 0.01 => format!("{figure:.3}"),
        _ if size >= 0.000_1 => format!("{figure:.5}"),
        _ => format!("{figure:.1e}"),
    }
}

/// Microseconds as milliseconds.
pub fn ms(us: f64) -> String {
    number(us / 1_000.0)
}

/// A ratio, as `1.25×`.
pub fn times(ratio: f64) -> String {
    if ratio.is_finite() { format!("{}×", fixed(ratio)) } else { "?".to_owned() }
}

/// A figure of a target with its unit, as `1.25×` or `3.41 ms`.
pub fn measure(figure: f64, unit: &str) -> String {
    if unit == "×" { times(figure) } else { format!("{}{unit}", number(figure)) }
}

/// The rounds of a target, from the lowest to the highest, as `1.15 – 1.25`.
pub fn spread((lowest, highest): (f64, f64), unit: &str) -> String {
    let number = |figure| if unit == "×" { fixed(figure) } else { number(figure) };
    format!("{} – {}", number(lowest), number(highest))
}

/// A share of one core, as `43%`.
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn fixed(ratio: f64) -> String {
    if ratio.abs() >= 99.95 { format!("{ratio:.0}") } else { format!("{ratio:.2}") }
}

fn thousands(whole: f64) -> String {
    let digits = format!("{:.0}", whole.abs());
    let mut text = if whole < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
