//! The rules of `ops/prometheus` and the dashboards of `ops/grafana` name metrics, labels and values that a live server has,
//! and the commands of `ops/runbook.md` work there. Faults fire each alert.

mod alerts;
mod promql;
mod runbook;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use catbird_testkit::cluster::database;
use catbird_testkit::fleet::{Mode, Replica};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::operations::{get, some_traffic};

/// Labels of every series, which Prometheus adds.
const OF_PROMETHEUS: [&str; 2] = ["job", "instance"];
/// Labels whose values depend on the requests that were made, and on settings.
const VARIABLE: [&str; 3] = ["method", "status", "notifications"];
/// Metrics that appear when something fails, by labels that no list has.
const OF_FAILURES: [&str; 1] = ["database_transaction_retries_total"];
/// Label of a series that is there only while messages wait for an actor.
const OF_WAITING: (&str, &str) = ("actor_mailbox_depth", "convo_id");
/// Metric that background work measures last, some seconds after the start.
const MEASURED_LAST: &str = "\ndatabase_dead_rows{";

/// Labels of each metric, with their values.
type Metrics = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Path of a file or a folder in `ops`.
fn operations(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ops").join(name)
}

/// Returns the expressions of a file of rules, with the name that a recording rule gives to its result.
fn rules(file: &str) -> Vec<(Option<String>, String)> {
    let text = std::fs::read_to_string(operations("prometheus").join(file)).unwrap();
    let (mut rules, mut record, mut lines) = (Vec::new(), None, text.lines().peekable());
    let indent = |line: &str| line.len() - line.trim_start().len();
    while let Some(line) = lines.next() {
        let key = line.trim_start().trim_start_matches("- ");
        if key.starts_with("alert: ") {
            record = None;
        } else if let Some(name) = key.strip_prefix("record: ") {
            record = Some(name.to_owned());
        } else if let Some(expression) = key.strip_prefix("expr: ") {
            let mut expression = expression.trim_start_matches(">-").to_owned();
            while let Some(more) = lines.next_if(|more| expression.len() != 1 && indent(more) > indent(line)) {
                expression += " ";
                expression += more.trim();
            }
            rules.push((record.take(), expression));
        }
    }
    rules
}

/// Returns the expressions of every dashboard, each with the template of its legend.
fn panels() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(operations("grafana")).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let targets =
            dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap());
        let text = |target: &Value, key: &str| target[key].as_str().unwrap().to_owned();
        found.extend(targets.map(|target| (text(target, "expr"), text(target, "legendFormat"))));
    }
    found
}

/// Adds the metrics of a page.
fn read(page: &str, metrics: &mut Metrics) {
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|declared| declared.split_once(' ')) {
            let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            ends.iter().for_each(|end| _ = metrics.entry(format!("{name}{end}")).or_default());
        } else if let Some((name, labels)) = line.split_once('{') {
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let of_metric = metrics.get_mut(name).unwrap();
            for label in labels.split("\",").filter(|label| !label.is_empty()) {
                let (label, value) = label.split_once("=\"").unwrap();
                // Prometheus renames a label that it adds itself.
                let label = if OF_PROMETHEUS.contains(&label) { format!("exported_{label}") } else { label.to_owned() };
                of_metric.entry(label).or_default().insert(value.trim_end_matches('"').to_owned());
            }
        }
    }
}

/// Appends what is wrong with an expression.
fn check(expression: &str, metrics: &Metrics, wrong: &mut Vec<String>) {
    let names = promql::names(expression);
    let mut labels: BTreeSet<&str> = BTreeSet::from(OF_PROMETHEUS);
    for (metric, selectors) in &names.metrics {
        let Some(known) = metrics.get(metric) else {
            wrong.push(format!("no metric {metric}: {expression}"));
            continue;
        };
        labels.extend(known.keys().map(String::as_str));
        for (label, values) in selectors.iter().filter(|(label, _)| !OF_PROMETHEUS.contains(&&**label)) {
            match known.get(label) {
                None => wrong.push(format!("{metric} has no label {label}: {expression}")),
                Some(_) if VARIABLE.contains(&&**label) => {}
                Some(have) => wrong.extend(
                    values
                        .iter()
                        .filter(|value| !have.contains(*value))
                        .map(|value| format!("{metric} has no {label}=\"{value}\": {expression}")),
                ),
            }
        }
    }
    let unknown = names.labels.iter().filter(|label| !labels.contains(&***label));
    wrong.extend(unknown.map(|label| format!("no metric has the label {label}: {expression}")));
}

/// Plays a conversation at a new replica, with a stream that receives an event. Returns it with its metrics page.
async fn play(mode: Mode, database_url: &str) -> (Replica, String) {
    let replica = Replica::start(mode, database_url, &[]).await;
    let (mut alice, _, _) = some_traffic(&replica.base).await;
    let mut stream = alice.xrpc.follow("streamConvoEvents", &[], None).await.unwrap().unwrap();
    alice.send("to the stream").await.unwrap();
    while stream.next().await.unwrap().unwrap().name != "messageEvent" {}
    let start = Instant::now();
    loop {
        let (_, page) = get(format!("{}/metrics", replica.base)).await;
        if page.contains(MEASURED_LAST) {
            return (replica, page);
        }
        assert!(start.elapsed() < Duration::from_secs(30), "PostgreSQL was not measured:\n{page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn promtool_accepts(page: &str) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().expect("promtool is installed");
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).await.unwrap();
    let output = promtool.wait_with_output().await.unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_and_dashboards_name_metrics_labels_and_values_that_a_live_server_has() {
    let database = database().await;
    let played = tokio::join!(play(Mode::Advisory, &database.url), play(Mode::Actors, &database.url));
    let mut metrics = Metrics::new();
    for (_, page) in [played.0, played.1] {
        promtool_accepts(&page).await;
        read(&page, &mut metrics);
    }
    OF_FAILURES.iter().for_each(|metric| _ = metrics.entry((*metric).to_owned()).or_default());
    let (metric, label) = OF_WAITING;
    _ = metrics.entry(metric.to_owned()).or_default().entry(label.to_owned()).or_default();
    // Of Prometheus itself.
    metrics.entry("up".to_owned()).or_default();
    let of_alerts = ["alertname", "alertstate", "severity"];
    let of_alerts = of_alerts.map(|label| (label.to_owned(), BTreeSet::from(["firing".to_owned()])));
    metrics.insert("ALERTS".to_owned(), BTreeMap::from(of_alerts));

    let mut wrong = Vec::new();
    for (record, expression) in ["rules.yml", "alerts.yml"].into_iter().flat_map(rules) {
        check(&expression, &metrics, &mut wrong);
        if let Some(record) = record {
            let names = promql::names(&expression);
            let all: BTreeMap<_, _> = names.metrics.keys().filter_map(|metric| metrics.get(metric)).flatten().collect();
            let labels =
                names.labels.iter().filter_map(|label| Some((label.clone(), all.get(label)?.to_owned().clone())));
            let labels = labels.collect();
            metrics.insert(record, labels);
        }
    }
    for (expression, legend) in panels() {
        check(&expression, &metrics, &mut wrong);
        let names = promql::names(&expression);
        for label in legend.split("{{").skip(1).map(|label| label.split("}}").next().unwrap()) {
            let of_metric = |metric: &String| metrics.get(metric).is_some_and(|labels| labels.contains_key(label));
            if !names.labels.contains(label) && !OF_PROMETHEUS.contains(&label) && !names.metrics.keys().any(of_metric)
            {
                wrong.push(format!("the legend {legend} names no label of {expression}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
