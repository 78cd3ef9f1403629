//! `catbird-server check`: checks the invariants of a live database.
//!
//! Each file in `sql/checks` selects the rows that violate one invariant. All checks run in one read-only snapshot, so
//! concurrent writes are seen completely or not at all.

use std::fmt;

use tokio_postgres::{IsolationLevel, SimpleQueryMessage};

use crate::doctor::{self, Diagnosis};
use crate::store::{self, ConnectError, sql};

/// Maximum number of findings that are printed for one invariant.
const MAX_SHOWN: usize = 20;

macro_rules! checks {
    ($($name:literal),* $(,)?) => {
        [$(($name, sql!("checks", $name))),*]
    };
}

/// Invariants by name, with the query that finds violations.
const CHECKS: [(&str, &str); 18] = checks![
    "duplicate_epochs",
    "missing_epochs",
    "commit_order",
    "generations",
    "message_epochs",
    "sequence_gaps",
    "strangers",
    "late_entries",
    "positions",
    "member_counts",
    "welcomes",
    "key_packages",
    "devices",
    "replies",
    "unread_commits",
    "envelopes",
    "commit_reports",
    "group_infos",
];

/// Findings by invariant, and what the doctor says about the settings of PostgreSQL and open transactions.
#[derive(Debug)]
pub struct Report {
    invariants: Vec<(&'static str, &'static str, Vec<String>)>,
    advice: Vec<Diagnosis>,
}

impl Report {
    /// Returns true if every invariant holds.
    pub fn is_clean(&self) -> bool {
        self.invariants.iter().all(|(_, _, findings)| findings.is_empty())
    }

    /// Returns the names of the violated invariants.
    pub fn violated(&self) -> Vec<&'static str> {
        self.invariants.iter().filter(|(_, _, findings)| !findings.is_empty()).map(|(name, _, _)| *name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, meaning, findings) in &self.invariants {
            match findings.len() {
                0 => writeln!(f, "ok        {name}")?,
                n => writeln!(f, "VIOLATED  {name}: {meaning} ({n} found)")?,
            }
            for finding in findings.iter().take(MAX_SHOWN) {
                writeln!(f, "          {finding}")?;
            }
            if findings.len() > MAX_SHOWN {
                writeln!(f, "          and {} more", findings.len() - MAX_SHOWN)?;
            }
        }
        for Diagnosis { found, touches, .. } in &self.advice {
            writeln!(f, "WARNING   {found}: {}", touches.as_deref().unwrap_or_default())?;
        }
        match self.is_clean() {
            true => writeln!(f, "All {} invariants hold.", self.invariants.len()),
            false => writeln!(f, "{} of {} invariants are violated.", self.violated().len(), self.invariants.len()),
        }
    }
}

/// Runs all checks in one snapshot of the database.
pub async fn run(database: &tokio_postgres::Config) -> Result<Report, ConnectError> {
    let (mut client, connection) = store::connect(database).await?;
    let snapshot =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    let mut report = Vec::new();
    for (name, query) in CHECKS {
        let meaning = query.lines().next().and_then(|line| line.split_once(": ")).map_or("", |(_, meaning)| meaning);
        let rows = snapshot.simple_query(query).await?;
        let findings = rows.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(match (row.get("convo_id"), row.get("finding").unwrap_or("?")) {
                (Some(convo), finding) => format!("conversation {convo}: {finding}"),
                (None, finding) => finding.to_owned(),
            }),
            _ => None,
        });
        report.push((name, meaning, findings.collect()));
    }
    snapshot.commit().await?;
    connection.abort();
    let advice = doctor::advice(database).await?;
    Ok(Report { invariants: report, advice })
}
