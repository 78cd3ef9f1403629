//! `catbird-server check`: checks the invariants of a live database.
//!
//! Each file in `sql/checks` selects the rows that violate one invariant. All these checks run in one read-only snapshot, so
//! concurrent writes are seen completely or not at all. [`with_objects`] also compares the blobs with the blob store.

mod objects;

use std::fmt;

use tokio_postgres::{IsolationLevel, SimpleQueryMessage};

use crate::doctor::{self, Diagnosis};
use crate::objects::Objects;
use crate::store::{self, ConnectError, Operator, sql};

pub use objects::Failure;

/// Maximum number of findings that are printed for one invariant.
const MAX_SHOWN: usize = 20;

macro_rules! checks {
    ($($name:literal),* $(,)?) => {
        [$(($name, sql!("checks", $name))),*]
    };
}

/// Invariants by name, with the query that finds violations.
const CHECKS: [(&str, &str); 19] = checks![
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
    "blobs",
];

/// An invariant: its name, what its violation is, and the findings.
type Invariant = (&'static str, &'static str, Vec<String>);

/// Findings by invariant, and what the doctor says about the settings of PostgreSQL and open transactions.
#[derive(Debug)]
pub struct Report {
    invariants: Vec<Invariant>,
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

/// Runs the checks of the database, and compares its blobs with the blob store.
pub async fn with_objects(database: &tokio_postgres::Config, objects: &Objects) -> Result<Report, Failure> {
    let mut report = run(database).await?;
    let db = Operator::connect(database).await?;
    let meaning = "a blob does not have its bytes in the blob store (P4)";
    report.invariants.push(("blob_bytes", meaning, objects::lost_bytes(&db, objects).await?));
    let meaning = "an object in the blob store belongs to no blob";
    report.invariants.push(("stray_objects", meaning, objects::stray_objects(&db, objects).await?));
    Ok(report)
}

/// Runs the checks of the database.
pub async fn run(database: &tokio_postgres::Config) -> Result<Report, ConnectError> {
    let invariants = in_snapshot(database).await?;
    Ok(Report { invariants, advice: doctor::advice(database).await? })
}

/// Runs the checks of the database in one snapshot.
async fn in_snapshot(database: &tokio_postgres::Config) -> Result<Vec<Invariant>, ConnectError> {
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
    Ok(report)
}
