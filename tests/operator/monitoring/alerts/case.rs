//! One alert with its fault: Prometheus watches, the alert fires, its entry in the runbook is followed, the alert resolves.

use std::time::{Duration, Instant};

use catbird_testkit::app::variables;
use tokio::process::Command;

use super::super::{operations, runbook};
use super::prometheus::Prometheus;

/// Maximum time until an alert fires or resolves: the longest `for` is two minutes here.
const PATIENCE: Duration = Duration::from_secs(300);

/// Result of a case, for the table.
#[derive(Debug, Default, Clone)]
pub struct Row {
    /// Time from the fault until the alert fired.
    pub fired: Duration,
    /// Commands of the runbook that were run.
    pub commands: usize,
    /// Time from the repair until the alert had resolved.
    pub resolved: Duration,
    /// Other alerts that fired with it.
    pub also: Vec<String>,
}

/// An alert that is tried.
pub struct Case {
    alert: &'static str,
    prometheus: Option<Prometheus>,
    /// The entry of the runbook that is being followed.
    entry: String,
    admin: String,
    database_url: String,
    since: Instant,
    row: Row,
}

/// Output of the commands of an entry.
pub struct Seen(String);

impl Seen {
    /// Checks that the commands have shown a text.
    #[track_caller]
    pub fn has(&self, text: &str) -> &Self {
        assert!(self.0.contains(text), "the commands of the runbook do not show {text:?}:\n{}", self.0);
        self
    }
}

impl Case {
    pub fn new(alert: &'static str) -> Self {
        let (entry, none) = (entry(&url(alert)), String::new());
        let (since, row) = (Instant::now(), Row::default());
        Self { alert, prometheus: None, entry, admin: none.clone(), database_url: none, since, row }
    }

    /// Starts Prometheus. The commands of the runbook will ask the first of these replicas and this database.
    pub async fn watch(&mut self, replicas: &[&str], database_url: &str) {
        self.watch_with(replicas, database_url, &[]).await;
    }

    /// Like [`Case::watch`], with thresholds that are durations.
    pub async fn watch_with(&mut self, replicas: &[&str], database_url: &str, thresholds: &[(&str, &str)]) {
        replicas[0].clone_into(&mut self.admin);
        database_url.clone_into(&mut self.database_url);
        self.prometheus = Some(Prometheus::start(replicas, thresholds).await);
        self.since = Instant::now();
    }

    pub fn prometheus(&self) -> &Prometheus {
        self.prometheus.as_ref().expect("it is watched")
    }

    /// Waits until the alert fires. The fault has just been made.
    pub async fn fires(&mut self) {
        self.since = Instant::now();
        loop {
            let firing = self.prometheus().firing().await;
            if firing.iter().any(|name| name == self.alert) {
                self.row.fired = self.since.elapsed();
                self.row.also = firing.into_iter().filter(|name| name != self.alert).collect();
                self.row.also.sort();
                self.row.also.dedup();
                return;
            }
            assert!(self.since.elapsed() < PATIENCE, "{} does not fire; firing: {firing:?}", self.alert);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Runs each command of the entry, which must succeed.
    pub async fn follow(&mut self) -> Seen {
        let (seen, is_success) = self.run_blocks().await;
        assert!(is_success, "a command of the runbook failed:\n{}", seen.0);
        seen
    }

    /// Runs each command of the entry, of which some fail because of the fault.
    pub async fn follow_in_vain(&mut self) -> Seen {
        let (seen, is_success) = self.run_blocks().await;
        assert!(!is_success, "every command of the runbook succeeded:\n{}", seen.0);
        seen
    }

    async fn run_blocks(&mut self) -> (Seen, bool) {
        let blocks = runbook::blocks(&self.entry);
        assert!(!blocks.is_empty(), "the entry has no command:\n{}", self.entry);
        let (mut seen, mut is_success) = (String::new(), true);
        for block in blocks {
            let (said, succeeded) = self.shell(&block).await;
            (seen, is_success) = (seen + &said, is_success && succeeded);
        }
        (Seen(seen), is_success)
    }

    async fn shell(&mut self, block: &str) -> (String, bool) {
        let mut shell = Command::new("bash");
        // Each line is a command, and one that fails does not keep the operator from the next.
        shell.args([
            "-uo",
            "pipefail",
            "-c",
            &format!("{}\ntrap 'failed=1' ERR; failed=0\n{block}\nexit $failed", runbook::path()),
        ]);
        shell.envs(variables(&[("DATABASE_URL", &self.database_url), ("ADMIN", &self.admin), ("SERVER", &self.admin)]));
        let output = tokio::time::timeout(PATIENCE, shell.output()).await.expect("the command ends").unwrap();
        self.row.commands += block.lines().filter(|line| !line.trim().is_empty()).count();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        (said, output.status.success())
    }

    /// Checks that the entry has a sentence, which names what was seen or what is done next.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let entry = self.entry.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(entry.contains(text), "the entry of {} does not say {text:?}:\n{}", self.alert, self.entry);
    }

    /// Goes on with another entry, to which this one has a link.
    #[track_caller]
    pub fn turn_to(&mut self, heading: &str) {
        let link = format!("#{}", heading.to_lowercase());
        assert!(self.entry.contains(&format!("]({link})")), "no link to {link}:\n{}", self.entry);
        self.entry = entry(&link);
    }

    /// Runs a command that a sentence of the entry names, with its placeholders filled in, and returns its output.
    pub async fn run(&mut self, command: &str, filled: &[(&str, &str)]) -> Seen {
        self.says(&format!("`{command}`"));
        let command = filled.iter().fold(command.to_owned(), |command, (name, value)| command.replace(name, value));
        let (said, is_success) = self.shell(&command).await;
        assert!(is_success, "{command}: {said}");
        Seen(said)
    }

    /// Like [`Case::run`], for a statement of SQL.
    pub async fn run_sql(&mut self, statement: &str, filled: &[(&str, &str)]) -> Seen {
        self.says(&format!("`{statement}`"));
        let statement = filled.iter().fold(statement.to_owned(), |all, (name, value)| all.replace(name, value));
        let (said, is_success) = self.shell(&format!("psql \"$DATABASE_URL\" -c \"{statement}\"")).await;
        assert!(is_success, "{statement}: {said}");
        Seen(said)
    }

    /// Waits until the alert no longer fires. The fault has just been repaired.
    pub async fn resolves(&mut self) {
        let start = Instant::now();
        while self.prometheus().firing().await.iter().any(|name| name == self.alert) {
            assert!(start.elapsed() < PATIENCE, "{} goes on firing", self.alert);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.row.resolved = start.elapsed();
    }

    /// Returns the row of the table. Panics if the alert did not fire, nothing of the runbook was run, or it did not resolve.
    pub fn end(self) -> Row {
        assert!(!self.row.fired.is_zero() && self.row.commands > 0 && !self.row.resolved.is_zero(), "{:?}", self.row);
        self.row
    }
}

/// Returns the `runbook_url` of an alert.
fn url(alert: &str) -> String {
    let text = std::fs::read_to_string(operations("prometheus/alerts.yml")).unwrap();
    let (_, rule) =
        text.split_once(&format!("- alert: {alert}\n")).unwrap_or_else(|| panic!("no alert is named {alert}"));
    let (_, url) = rule.split_once("runbook_url: ").unwrap();
    url.lines().next().unwrap().to_owned()
}

/// Returns the entry of the runbook that a link leads to.
fn entry(link: &str) -> String {
    let anchor = link.split_once('#').unwrap().1;
    let text = std::fs::read_to_string(operations("runbook.md")).unwrap();
    let sections = text.split("\n### ");
    let mut found = sections.filter(|section| section.lines().next().unwrap().to_lowercase() == anchor);
    let entry = found.next().unwrap_or_else(|| panic!("the runbook has no entry {anchor}"));
    // Up to the next heading of a higher level.
    entry.split("\n## ").next().unwrap().to_owned()
}
