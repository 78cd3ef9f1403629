//! A Prometheus with the configuration and the rules of `ops/prometheus`, in which a second stands for a minute. It ends with its
//! value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use catbird_client::xrpc;
use catbird_testkit::port::Port;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use ulid::Ulid;

use super::super::operations;

/// Maximum time of a start or a reload, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// The job that the rules select.
pub const JOB: &str = "catbird";

/// A running Prometheus.
pub struct Prometheus {
    process: Child,
    dir: PathBuf,
    base: String,
    /// Address that it scrapes itself at.
    own: String,
    _port: Port,
    targets: String,
}

impl Prometheus {
    /// Starts one that scrapes these replicas, and waits until it has read each of them. `thresholds` replaces parts of the rules:
    /// durations of minutes and more, which must be divided as well.
    pub async fn start(replicas: &[&str], thresholds: &[(&str, &str)]) -> Self {
        let dir = std::env::temp_dir().join(format!("catbird-prometheus-{}", Ulid::new()));
        fs::create_dir(&dir).unwrap();
        for file in ["rules.yml", "alerts.yml"] {
            fs::write(dir.join(file), rules(file, thresholds)).unwrap();
        }
        let port = Port::reserve();
        let own = format!("127.0.0.1:{port}");
        let targets: Vec<String> =
            replicas.iter().map(|base| format!("{:?}", base.trim_start_matches("http://"))).collect();
        let targets = format!("[{}]", targets.join(", "));
        write_configuration(&dir, JOB, &targets, &own);
        let log = File::create(dir.join("log")).unwrap();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={own}"))
            // A series that is not scraped any more counts as absent after five minutes.
            .arg("--query.lookback-delta=5s")
            .env("GOMAXPROCS", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("Prometheus is installed");
        let prometheus = Self { process, dir, base: format!("http://{own}"), own, _port: port, targets };
        let all = format!("count(count_over_time(up{{job=\"{JOB}\"}}[30s])) == {}", replicas.len());
        prometheus.until("the first scrapes", async || !prometheus.query(&all).await.is_empty()).await;
        prometheus
    }

    /// Renames the job, as an edit of the configuration does, and reloads.
    pub async fn rename_job(&self, job: &str) {
        let loaded = || fs::read_to_string(self.dir.join("log")).unwrap().matches("Completed loading").count();
        let before = loaded();
        write_configuration(&self.dir, job, &self.targets, &self.own);
        kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGHUP).unwrap();
        self.until("the reload", async || loaded() > before).await;
    }

    /// Returns the result of an expression: the labels of each series.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let query = [("query", expression)];
        let url = reqwest::Url::parse_with_params(&format!("{}/api/v1/query", self.base), &query).unwrap();
        let Some(page) = page(url).await else { return Vec::new() };
        assert_eq!(page["status"], "success", "{expression}: {page}");
        page["data"]["result"].as_array().unwrap().clone()
    }

    /// Returns the alerts that fire, by name.
    pub async fn firing(&self) -> Vec<String> {
        let url = format!("{}/api/v1/alerts", self.base).parse().unwrap();
        let Some(page) = page(url).await else { return Vec::new() };
        let alerts = page["data"]["alerts"].as_array().unwrap();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        firing.map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    }

    async fn until(&self, what: &str, mut come: impl AsyncFnMut() -> bool) {
        let start = Instant::now();
        while !come().await {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap();
            assert!(start.elapsed() < PATIENCE, "{what} did not come:\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        fs::remove_dir_all(&self.dir).unwrap();
    }
}

/// Returns a page of the API; `None` while it does not answer.
async fn page(url: reqwest::Url) -> Option<Value> {
    xrpc::http().unwrap().get(url).send().await.ok()?.json().await.ok()
}

/// Writes the configuration of `ops` for these targets. A page of a server whose database hangs takes a second, so the interval cannot
/// be a quarter of one.
fn write_configuration(dir: &Path, job: &str, targets: &str, own: &str) {
    let text = fs::read_to_string(operations("prometheus/prometheus.yml")).unwrap();
    let text = replaced(&text, "scrape_interval: 15s", "scrape_interval: 1500ms\n  scrape_timeout: 1500ms");
    let text = replaced(&text, "evaluation_interval: 15s", "evaluation_interval: 250ms");
    let text = replaced(&text, &format!("job_name: {JOB}\n"), &format!("job_name: {job}\n"));
    let text = replaced(&text, "[\"127.0.0.1:3001\"]", targets);
    let text = replaced(&text, "[\"127.0.0.1:9090\"]", &format!("[{own:?}]"));
    fs::write(dir.join("prometheus.yml"), text).unwrap();
}

/// Returns a file of rules with shorter durations.
fn rules(file: &str, thresholds: &[(&str, &str)]) -> String {
    let text = fs::read_to_string(operations("prometheus").join(file)).unwrap();
    let short = text.lines().map(|line| shortened(line) + "\n").collect::<String>();
    // Only alerts have thresholds.
    let thresholds = if file == "alerts.yml" { thresholds } else { &[] };
    thresholds.iter().fold(short, |text, (threshold, divided)| replaced(&text, threshold, divided))
}

fn replaced(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "{old:?} is not in the file");
    text.replace(old, new)
}

/// Divides `for` and the ranges of a line by 60: minutes become seconds, and hours minutes.
fn shortened(line: &str) -> String {
    let unit = |duration: &str| {
        let (number, unit) = duration.split_at(duration.len() - 1);
        assert!(number.parse::<u32>().is_ok(), "{duration} is a number with one unit: {line}");
        match unit {
            "m" => format!("{number}s"),
            "h" => format!("{number}m"),
            _ => panic!("{duration} is no number of minutes or hours: {line}"),
        }
    };
    if let Some((before, duration)) = line.split_once("for: ").filter(|(before, _)| before.trim().is_empty()) {
        return format!("{before}for: {}", unit(duration));
    }
    let mut parts = line.split('[');
    let mut short = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (range, rest) = part.split_once(']').expect("a range ends");
        short += &format!("[{}]{rest}", unit(range));
    }
    short
}

#[test]
fn durations_are_divided_by_sixty_and_nothing_else_is() {
    assert_eq!(shortened("        for: 2h"), "        for: 2m");
    assert_eq!(
        shortened("expr: increase(a_total{b=\"c\"}[1h]) > 5 and job:x:rate5m / rate(d[10m]) > 1"),
        "expr: increase(a_total{b=\"c\"}[1m]) > 5 and job:x:rate5m / rate(d[10s]) > 1"
    );
    assert_eq!(shortened("          description: wait for: the end"), "          description: wait for: the end");
}
