//! The table in the terminal.

use catbird_bench_report::{Paint, table};

use crate::bench_report::fixture;

fn plain() -> String {
    table(&fixture::run(), Paint::Plain)
}

/// Returns the cells of the line that starts with these words.
fn cells(text: &str, begin: &str) -> Vec<String> {
    let squeezed = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let begin: Vec<&str> = begin.split_whitespace().collect();
    let mut found = squeezed.filter(|line| line.starts_with(&begin));
    let line = found.next().unwrap_or_else(|| panic!("no line begins with {begin:?}:\n{text}"));
    assert!(found.next().is_none(), "two lines begin with {begin:?}:\n{text}");
    line[begin.len()..].iter().map(ToString::to_string).collect()
}

#[test]
fn a_line_has_yardstick_advisory_and_actors_beside_each_other() {
    let text = plain();
    let line = cells(&text, "send spread 32 messages");
    // Rate and latency of the yardstick; then rate, ratio, latency and the generator's share, twice.
    assert_eq!(line.len(), 10, "{line:?}");
    assert_eq!((line[0].as_str(), line[2].as_str(), line[3].as_str()), ("2,000", "2,400", "1.20×"));
    assert_eq!((line[6].as_str(), line[7].as_str(), line[9].as_str()), ("2,100", "1.05×", "25%"));
    assert_eq!(line[1], "12.2/48.1", "p50 and p99 in milliseconds");
}

#[test]
fn every_load_has_a_line_at_each_number_of_connections() {
    let text = plain();
    for connections in fixture::CONNECTIONS {
        for load in ["send spread", "send hot", "group_size 10,000 members"] {
            cells(&text, &format!("{load} {connections} messages"));
        }
    }
    for clients in [2, 8, 64] {
        assert_eq!(cells(&text, &format!("race one conversation {clients} commits"))[6], "-", "no actors took part");
    }
}

#[test]
fn a_series_without_a_yardstick_has_no_ratio() {
    let line = cells(&plain(), "group_size 10,000 members 32 messages");
    assert_eq!((line[0].as_str(), line[3].as_str(), line[7].as_str()), ("-", "-", "-"));
}

#[test]
fn the_generator_alone_is_listed_separately() {
    let text = plain();
    assert!(text.contains("generator calibration alone, 32 connections: 91,000 messages/s, 25% of a core"), "{text}");
}

#[test]
fn side_measurements_have_a_line_with_medians() {
    let text = plain();
    let line = "cost spread, Actors, 32 connections: server cpu us per message 81.5, wal bytes per message 2,100\n";
    assert!(text.contains(line), "{text}");
    assert!(!text.contains("client cpu us"), "{text}");
}

#[test]
fn targets_end_in_a_verdict() {
    let text = plain();
    let verdict = |name: &str| cells(&text, name).join(" ");
    let send = verdict("send, 1,000 conversations, against the yardstick");
    assert_eq!(send, "Advisory 1.60× 1.50 – 1.70 at least 1.00× aim reached");
    assert!(verdict("commits over 1,000 conversations, against the yardstick").ends_with("0.50× reached"));
    assert!(verdict("p99 of cold conversations beside").ends_with("at most 1.50× not reached"));
    assert_eq!(verdict("p50 of an event by NOTIFY"), "Advisory 3.25 ms 3.15 – 3.35 at most 4.00 ms reached");
}

#[test]
fn the_configuration_is_named() {
    assert!(plain().contains(&format!("servers: {}\n", fixture::CONFIGURATION)));
}

#[test]
fn lines_fit_into_140_columns_and_columns_are_aligned() {
    let text = plain();
    let wide = text.lines().filter(|line| !line.starts_with("note:")).map(|line| line.chars().count()).max();
    assert!(wide <= Some(140), "{wide:?}:\n{text}");
    let head = text.lines().find(|line| line.starts_with("load")).unwrap();
    let end = |line: &str, of: &str| line[..line.find(of).unwrap() + of.len()].chars().count();
    let spread = text.lines().find(|line| line.contains("2,400")).unwrap();
    assert_eq!(end(head, "Yardstick"), end(spread, "2,000"));
    assert_eq!(end(head, "Advisory"), end(spread, "2,400"));
    assert_eq!(end(head, "Actors"), end(spread, "2,100"));
}

#[test]
fn colours_are_for_terminals_only() {
    assert!(!plain().contains('\x1b'));
    let coloured = table(&fixture::run(), Paint::Colours);
    assert!(coloured.contains("\x1b[31mnot reached\x1b[0m") && coloured.contains("\x1b[32maim reached\x1b[0m"));
}

#[test]
fn failures_and_a_build_without_optimisation_come_first() {
    let mut run = fixture::run();
    run.machine.optimised = false;
    run.series[1].samples[2].failed = 7;
    let text = table(&run, Paint::Plain);
    let head = text.find("load").unwrap();
    assert!(text[..head].contains("only show that the benches work"), "{text}");
    assert!(text[..head].contains("send spread, Yardstick, 1 connections: 7 requests failed"), "{text}");
}
