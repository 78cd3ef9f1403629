//! `admin audit`: who did or read what, when and why.

use chrono::SecondsFormat;

use super::{Admin, AdminError};
use crate::store::admin::PastRun;

/// Maximum number of runs in one list, the latest first. The table `admin_audit` has them all.
const MAX_LISTED: i64 = 1_000;

impl Admin {
    /// Returns the latest runs, of all targets or of one, a line each.
    pub(super) async fn audit(&self, target: Option<&str>) -> Result<Vec<String>, AdminError> {
        let runs = self.operator.past_runs(target, MAX_LISTED).await?;
        let mut lines: Vec<String> = runs.iter().map(line).collect();
        lines.push(match runs.len() as i64 {
            MAX_LISTED => format!("{MAX_LISTED} runs, and perhaps more: select * from admin_audit"),
            listed => format!("{listed} runs"),
        });
        Ok(lines)
    }
}

fn line(run: &PastRun) -> String {
    let PastRun { at, command, target, reason, os_user, host, db_role, counts } = run;
    let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let counts = counts.as_deref().unwrap_or("not finished");
    format!("{at}  {os_user}@{host} as {db_role}  {command} {target}  {counts}  {reason}")
}
