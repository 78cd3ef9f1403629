//! The page: one file with all results of a run.
//!
//! It is well-formed XML too, so a test can parse it. maud escapes all text.

use std::collections::BTreeSet;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figures::{
    CLIENT_CPU, Figures, Group, extra, extras, groups, label, measure, ms, notes, number, percent, spread, times,
    warnings,
};
use super::name;
use super::plots::{self, Plot};
use super::table::{direction, verdict};
use crate::results::{Run, Series, Target, Who};

/// maud omits the slashes that XML requires.
const META: &str = r#"<meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>"#;

const STYLE: &str = include_str!("style.css");

/// The whole document.
pub fn page(run: &Run) -> String {
    let groups = groups(run);
    let title = "Catbird MLS delivery service: benchmark";
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                (PreEscaped(META))
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (title) }
                @for warning in warnings(run) { p.warning { (warning) } }
                (machine(run))
                @if !run.targets.is_empty() { (targets(&run.targets)) }
                h2 { "Throughput and latency" }
                (legend(&groups))
                @for group in &groups { (section(group)) }
                (all_figures(&groups))
                @let measured = run.series.iter().any(|series| !extras(series).is_empty());
                @if measured { h2 { "Measured beside" } (costs(&groups)) }
                @let notes = notes(run);
                @if !notes.is_empty() { h2 { "Notes" } ul { @for note in notes { li { (note) } } } }
            }
        }
    }
    .into_string()
}

fn machine(run: &Run) -> Markup {
    let machine = &run.machine;
    let memory = format!("{:.1} GiB", machine.memory_bytes as f64 / f64::from(1 << 30));
    let unknown = || "unknown".to_owned();
    let facts = [
        ("Command", run.command.clone()),
        ("Servers", run.configuration.clone()),
        ("Started", run.started.clone()),
        ("Commit", machine.commit.clone().unwrap_or_else(unknown)),
        ("Machine", format!("{} × {}, {memory}", machine.cores, machine.cpu_model)),
        ("System", machine.os.clone()),
        ("PostgreSQL", machine.postgres_version.clone()),
        ("Rust", machine.rustc.clone().unwrap_or_else(unknown)),
    ];
    html! {
        dl.machine { @for (name, fact) in facts { div { dt { (name) } dd { (fact) } } } }
    }
}

fn targets(targets: &[Target]) -> Markup {
    html! {
        h2 { "Targets" }
        p { "Each figure is the median over the rounds; a ratio is that within a round." }
        div.scroll {
            table.targets {
                thead {
                    tr {
                        th { "Target" }
                        th { "Verdict" }
                        th.n { "Measured" }
                        th.n { "Rounds" }
                        th.n { "Has to be" }
                        th.n { "Aim" }
                        th { "Of" }
                    }
                }
                tbody {
                    @for target in targets {
                        tr {
                            td { (target.name) }
                            td { span class=(if target.is_met() { "met" } else { "missed" }) { (verdict(target)) } }
                            td.n { (measure(target.measured, &target.unit)) }
                            td.n { (spread(target.rounds, &target.unit)) }
                            td.n { (direction(target.kind)) " " (measure(target.bound, &target.unit)) }
                            td.n { (measure(target.aim, &target.unit)) }
                            td { (name(target.who)) }
                        }
                    }
                }
            }
        }
    }
}

fn legend(groups: &[Group]) -> Markup {
    let who: BTreeSet<Who> = groups.iter().flat_map(Group::who).collect();
    html! {
        p.legend {
            @for who in who { span { (plots::swatch(who)) " " (explained(who)) } " " }
        }
        p.small {
            "Throughput: the median of the rounds, with whiskers from the slowest to the fastest. Latency: all rounds "
            "together, with a band from the best to the worst; further right are the slower requests. Point at a mark "
            "for its figures."
        }
    }
}

fn explained(who: Who) -> &'static str {
    match who {
        Who::Advisory => "Advisory: the server with PostgreSQL's advisory lock",
        Who::Actors => "Actors: the server with an actor per conversation",
        Who::Yardstick => "Yardstick: pgbench, straight against the same PostgreSQL",
        Who::Generator => "Generator: the load generator against a responder that does no work",
    }
}

fn section(group: &Group) -> Markup {
    html! {
        section {
            h3 { (label(group.scenario, group.variant)) }
            div.plots {
                (figure(plots::throughput(group)))
                @if let Some(plot) = plots::latency(group) { (figure(plot)) }
            }
        }
    }
}

fn figure(plot: Plot) -> Markup {
    html! { figure { figcaption { (plot.title) } (plot.svg) } }
}

fn all_figures(groups: &[Group]) -> Markup {
    let heads = [
        "Load",
        "Connections",
        "Who",
        "Rate",
        "Slowest to fastest round",
        "To the yardstick",
        "p50, ms",
        "p99, ms",
        "Generator's core",
    ];
    html! {
        h2 { "All figures" }
        div.scroll {
            table {
                thead {
                    tr { @for (index, head) in heads.iter().enumerate() { th.n[index != 0 && index != 2] { (head) } } }
                }
                tbody {
                    @for group in groups { @for row in &group.rows { @for who in group.who() {
                        @if let Some(figures) = row.figures(who) { (figures_row(group, &figures)) }
                    } } }
                }
            }
        }
    }
}

fn figures_row(group: &Group, figures: &Figures) -> Markup {
    html! {
        tr {
            td { (label(group.scenario, group.variant)) }
            td.n { (figures.series.connections) }
            td { (name(figures.series.who)) }
            td.n { (number(figures.rate)) " " (group.unit) }
            td.n { (number(*figures.rates.start())) " – " (number(*figures.rates.end())) }
            td.n { (figures.ratio.map(times).unwrap_or_default()) }
            td.n { (ms(figures.p50_us)) }
            td.n { (ms(figures.p99_us)) }
            td.n {
                (figures.client_cpu.map(percent).unwrap_or_default())
                @if let Some((us, _)) = extra(figures.series, CLIENT_CPU) { ", " (number(us)) " µs each" }
            }
        }
    }
}

/// A table for each scenario with measurements besides rates and latencies, such as the cost of a message.
fn costs(groups: &[Group]) -> Markup {
    let mut scenarios: Vec<&str> = groups.iter().map(|group| group.scenario).collect();
    scenarios.dedup();
    html! { @for scenario in scenarios { (cost(scenario, groups)) } }
}

fn cost(scenario: &str, groups: &[Group]) -> Markup {
    let groups: Vec<&Group> = groups.iter().filter(|group| group.scenario == scenario).collect();
    let figures: Vec<Figures> = groups.iter().flat_map(|group| group.who().flat_map(|who| group.line(who))).collect();
    let names: BTreeSet<&str> = figures.iter().flat_map(|figures| extras(figures.series)).collect();
    if names.is_empty() {
        return html! {};
    }
    html! {
        h3 { (scenario) }
        div.scroll {
            table {
                thead {
                    tr {
                        th { "Load" }
                        th { "Who" }
                        th.n { "Connections" }
                        @for name in &names { th.n { (name.replace('_', " ")) } }
                    }
                }
                tbody {
                    @for figures in figures.iter().filter(|figures| !extras(figures.series).is_empty()) {
                        tr {
                            td { (label(scenario, &figures.series.variant)) }
                            td { (name(figures.series.who)) }
                            td.n { (figures.series.connections) }
                            @for name in &names { td.n { (medians(figures.series, name)) } }
                        }
                    }
                }
            }
        }
    }
}

/// The median, and the range over the rounds.
fn medians(series: &Series, name: &str) -> Markup {
    let Some((median, range)) = extra(series, name) else { return html! {} };
    html! {
        (number(median))
        @if range.start() < range.end() { div.small { (number(*range.start())) " – " (number(*range.end())) } }
    }
}
