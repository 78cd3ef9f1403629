//! Diagnoses, and the report that prints them.

use std::fmt;

use serde::Serialize;

/// How a diagnosis concerns the promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All promises hold.
    Ok,
    /// A promise holds under fewer circumstances, or later.
    Weak,
    /// A promise does not hold.
    Fatal,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Weak => "weak",
            Severity::Fatal => "fatal",
        }
    }
}

/// What was found about one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Name for tools; the same whatever was found.
    pub subject: &'static str,
    pub severity: Severity,
    /// What was found, as a sentence without its full stop.
    pub found: String,
    /// The promise that it touches, and how.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub touches: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Diagnosis {
    pub fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, severity: Severity::Ok, found: found.into(), touches: None, advice: None }
    }

    pub fn weak(
        subject: &'static str,
        found: impl Into<String>,
        touches: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (touches, advice) = (Some(touches.into()), Some(advice.into()));
        Self { subject, severity: Severity::Weak, found: found.into(), touches, advice }
    }

    pub fn fatal(
        subject: &'static str,
        found: impl Into<String>,
        touches: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Fatal, ..Self::weak(subject, found, touches, advice) }
    }
}

/// Part that could not be examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unexamined {
    pub part: &'static str,
    pub why: String,
}

/// All diagnoses.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub diagnoses: Vec<Diagnosis>,
    pub unexamined: Vec<Unexamined>,
}

impl Report {
    pub(super) fn add(&mut self, diagnoses: impl IntoIterator<Item = Diagnosis>) {
        self.diagnoses.extend(diagnoses);
    }

    /// Returns what was read of a part, or notes that it could not be examined.
    pub(super) fn take<T>(&mut self, part: &'static str, read: Result<T, String>) -> Option<T> {
        read.map_err(|why| self.unexamined.push(Unexamined { part, why })).ok()
    }

    /// Returns the diagnoses of this severity.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Diagnosis> {
        self.diagnoses.iter().filter(move |diagnosis| diagnosis.severity == severity)
    }

    /// Returns 1 if a promise does not hold, else 2 if a part could not be examined, else 0.
    pub fn exit_code(&self) -> u8 {
        match (self.of(Severity::Fatal).next(), self.unexamined.is_empty()) {
            (Some(_), _) => 1,
            (None, false) => 2,
            (None, true) => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Diagnosis { severity, found, touches, advice, .. } in &self.diagnoses {
            writeln!(f, "{:<8}{found}", severity.name())?;
            if let Some(touches) = touches {
                writeln!(f, "        {touches}")?;
            }
            if let Some(advice) = advice {
                writeln!(f, "        -> {advice}")?;
            }
        }
        for Unexamined { part, why } in &self.unexamined {
            writeln!(f, "unknown {part} could not be examined: {why}")?;
        }
        let count = |severity| self.of(severity).count();
        let (fatal, weak, ok) = (count(Severity::Fatal), count(Severity::Weak), count(Severity::Ok));
        writeln!(f, "{fatal} fatal, {weak} weak, {ok} ok, {} unknown", self.unexamined.len())
    }
}
