//! The HTML page.

use std::collections::BTreeSet;
use std::path::Path;

use catbird_bench_report::results::{Run, Who};
use catbird_bench_report::{name, page, write_html};
use roxmltree::{Document, Node, ParsingOptions};

use crate::bench_report::fixture;

fn parse(text: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(text, options).unwrap()
}

fn find<'a>(of: Node<'a, 'a>, tag: &str) -> Vec<Node<'a, 'a>> {
    of.descendants().filter(|node| node.has_tag_name(tag)).collect()
}

fn text(of: Node) -> String {
    of.descendants().filter_map(|node| node.text().filter(|_| node.is_text())).collect()
}

/// Returns the titles of all tooltips.
fn tips(document: &Document) -> Vec<String> {
    document.descendants().filter(|node| node.has_tag_name("circle")).flat_map(|c| c.children()).map(text).collect()
}

#[test]
fn every_series_is_in_the_plots_and_in_the_tables() {
    let run = fixture::run();
    let html = page(&run);
    let document = parse(&html);
    let tips = tips(&document);
    let rows: Vec<Vec<String>> =
        find(document.root(), "tr").into_iter().map(|row| row.children().map(text).collect()).collect();
    for series in &run.series {
        let begin = format!("{}, {} connections: ", name(series.who), series.connections);
        assert!(tips.iter().any(|tip| tip.starts_with(&begin)), "no mark for {begin}");
        let load = format!("{} {}", series.scenario, series.variant);
        let begin = [load, series.connections.to_string(), name(series.who).to_owned()];
        assert_eq!(rows.iter().filter(|row| row.starts_with(&begin)).count(), 1, "{begin:?}");
    }
    let marks = tips.iter().filter(|tip| tip.contains("connections: ")).count();
    assert_eq!(marks, run.series.len());
}

#[test]
fn a_mark_tells_its_median_its_range_and_its_ratio() {
    let html = page(&fixture::run());
    let tips = tips(&parse(&html));
    let expected = "Advisory, 32 connections: 2,400 messages/s (rounds 1,500 to 3,000), 1.20 of the yardstick";
    assert!(tips.iter().any(|tip| tip == expected), "{tips:#?}");
    assert!(tips.iter().any(|tip| tip.starts_with("Actors, 99.9 %: ")), "{tips:#?}");
}

#[test]
fn percentiles_come_from_all_rounds_and_lie_within_their_bucket() {
    let mut series = fixture::series("send", "spread", Who::Advisory, 32, &[1.0, 1.0]);
    series.samples[0].latency = vec![(1_000, 50), (2_000, 50)];
    series.samples[1].latency = vec![(2_000, 100)];
    let html = page(&Run { series: vec![series], ..fixture::run() });
    let tips = tips(&parse(&html));
    let p50 = "Advisory, 50 %: 1.33 ms (rounds 1.00 to 2.00)";
    assert!(tips.iter().any(|tip| tip == p50), "{tips:#?}");
}

#[test]
fn each_group_has_two_plots_with_titles_and_axes() {
    let run = fixture::run();
    let html = page(&run);
    let document = parse(&html);
    let groups: BTreeSet<_> = run.series.iter().map(|series| (&series.scenario, &series.variant)).collect();
    let figures = find(document.root(), "figure");
    assert_eq!(figures.len(), 2 * groups.len());
    for figure in figures {
        assert!(!text(find(figure, "figcaption")[0]).is_empty());
        let labels: Vec<String> = find(figure, "text").into_iter().map(|label| text(label).trim().to_owned()).collect();
        let axes =
            labels.iter().filter(|label| ["connections", "percentile of the requests"].contains(&label.as_str()));
        assert_eq!(axes.count(), 1, "{labels:?}");
        assert!(labels.iter().any(|label| label.ends_with("/s") || label == "ms"), "{labels:?}");
    }
}

#[test]
fn a_figure_without_latencies_keeps_its_throughput() {
    let mut run = fixture::run();
    for sample in run.series.iter_mut().flat_map(|series| &mut series.samples) {
        sample.latency.clear();
    }
    let html = page(&run);
    let figures = find(parse(&html).root(), "figcaption").into_iter().map(text).collect::<Vec<_>>();
    assert!(figures.iter().all(|title| title.starts_with("Throughput")) && !figures.is_empty(), "{figures:?}");
}

#[test]
fn side_measurements_have_a_table_with_medians() {
    let html = page(&fixture::run());
    let document = parse(&html);
    let tables = find(document.root(), "table");
    let cost = tables.into_iter().find(|table| text(*table).contains("wal bytes per message")).unwrap();
    let rows: Vec<String> = find(cost, "tr").into_iter().map(text).collect();
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert!(rows[1].contains("Advisory") && rows[1].contains("2,1002,000 – 2,200"), "{rows:?}");
}

#[test]
fn targets_are_marked_as_reached_or_not() {
    let html = page(&fixture::run());
    let document = parse(&html);
    let class = |class: &str| document.descendants().filter(|node| node.attribute("class") == Some(class)).count();
    assert_eq!((class("met"), class("missed")), (3, 1));
}

#[test]
fn text_is_escaped_and_shown() {
    let html = page(&fixture::run());
    assert!(find(parse(&html).root(), "script").is_empty());
    assert!(text(parse(&html).root()).contains(fixture::HOSTILE));
    assert!(text(parse(&html).root()).contains(fixture::CONFIGURATION));
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let html = page(&fixture::run());
    for outside in ["http:", "https:", "url(", "@import", "src=", "href="] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn the_style_sheet_knows_every_colour_of_the_drawings() {
    let html = page(&fixture::run());
    let document = parse(&html);
    let style = text(find(document.root(), "style")[0]);
    let mut seen = BTreeSet::new();
    for node in document.descendants().filter(|node| !node.has_tag_name("text")) {
        for attribute in ["fill", "stroke"] {
            if let Some(colour) = node.attribute(attribute).filter(|colour| colour.starts_with('#')) {
                seen.insert(format!("svg [{attribute}=\"{colour}\"]"));
            }
        }
    }
    assert!(seen.len() >= 9, "axes, grid, and lines and marks of four: {seen:?}");
    let unknown: Vec<_> = seen.iter().filter(|selector| !style.contains(*selector)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn an_empty_run_is_a_page_too() {
    let run = Run { series: Vec::new(), targets: Vec::new(), ..fixture::run() };
    assert!(find(parse(&page(&run)).root(), "figure").is_empty());
}

#[test]
fn a_series_without_rounds_is_left_out() {
    let mut run = fixture::run();
    run.series.push(fixture::series("send", "spread", Who::Generator, 32, &[]));
    let html = page(&run);
    assert!(!tips(&parse(&html)).iter().any(|tip| tip.starts_with("Generator") && tip.contains("?")));
}

#[test]
fn the_file_is_the_page() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench_report.html");
    write_html(&fixture::run(), &path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), page(&fixture::run()));
}
