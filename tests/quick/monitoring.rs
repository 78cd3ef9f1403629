//! The alerts, their unit tests, their entries in the runbook, and the dashboards are complete.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

fn file(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(path)).unwrap()
}

/// Headings of a document in Markdown.
fn headings(text: &str) -> Vec<&str> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        if line.starts_with('#') && !is_code {
            found.push(line.trim_start_matches('#').trim());
        }
    }
    found
}

/// Anchor of a heading, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// Returns the name of each alert with the lines of its rule.
fn alerts() -> Vec<(String, Vec<String>)> {
    let mut alerts: Vec<(String, Vec<String>)> = Vec::new();
    for line in file("prometheus/alerts.yml").lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push((name.to_owned(), Vec::new()));
        } else if let Some((_, lines)) = alerts.last_mut() {
            lines.push(line.to_owned());
        }
    }
    alerts
}

#[test]
fn each_alert_has_a_duration_a_severity_texts_a_test_and_an_entry_in_the_runbook() {
    let (runbook, tests) = (file("runbook.md"), file("prometheus/alerts_test.yml"));
    let anchors: BTreeSet<String> = headings(&runbook).into_iter().map(anchor).collect();
    let alerts = alerts();
    assert!(alerts.len() > 30, "the alerts can be read");
    for (name, lines) in &alerts {
        let value = |key: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
            found.unwrap_or_else(|| panic!("{name} has no {key}"))
        };
        for key in ["expr", "for", "summary", "description"] {
            value(key);
        }
        assert!(["{severity: page}", "{severity: ticket}"].contains(&value("labels")), "{name}");
        let entry = value("runbook_url").strip_prefix("ops/runbook.md#").unwrap();
        assert!(anchors.contains(entry), "{name}: the runbook has no {entry}");
        assert!(runbook.contains(name), "the runbook does not name {name}");
        assert!(tests.contains(&format!("  - name: {name}\n")), "{name} has no unit test");
    }
    for heading in headings(&runbook).into_iter().filter(|heading| heading.starts_with("Catbird")) {
        assert!(alerts.iter().any(|(name, _)| name == heading), "the runbook describes {heading}, which is no alert");
    }
}

#[test]
fn each_link_within_the_runbook_leads_to_an_entry() {
    let runbook = file("runbook.md");
    let anchors: BTreeSet<String> = headings(&runbook).into_iter().map(anchor).collect();
    for link in runbook.split("](#").skip(1).map(|after| after.split(')').next().unwrap()) {
        assert!(anchors.contains(link), "{link}");
    }
}

#[test]
fn each_panel_has_a_description_and_a_place_of_its_own() {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("ops/grafana");
    let mut uids = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(uids.insert(dashboard["uid"].as_str().unwrap().to_owned()), "{}", path.display());
        let (mut titles, mut cells) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{}: two panels are named {title}", path.display());
            assert!(panel["description"].as_str().is_some_and(|text| text.len() > 20), "{title} has no description");
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
            assert!(x + w <= 24, "{title} is wider than the page");
            for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(cells.insert(cell), "{title} overlaps another panel");
            }
        }
    }
    assert_eq!(uids.len(), 7);
}
