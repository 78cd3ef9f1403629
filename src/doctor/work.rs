//! Work in the background that falls behind or fails, and transactions that hold it up.

use std::time::Duration;

use crate::config::Config;
use crate::jobs::JOBS;
use crate::store::{ConnectError, MailboxFacts, Operator};

use super::Diagnosis;

/// Age of a sweep beyond which it is late, or three of its intervals if these are longer. The alert has the same.
const LATE_SWEEP: Duration = Duration::from_secs(6 * 3600);
/// Time after which mailboxes are late. The alert has the same.
const LATE_MAILBOX: Duration = Duration::from_secs(120);

/// Time after which an open transaction is one that somebody forgot.
pub(super) const OPEN_FOR_LONG: Duration = Duration::from_secs(60);

pub(super) async fn examine(db: &Operator, config: &Config) -> Result<Vec<Diagnosis>, ConnectError> {
    let mut found = sweeps(&db.sweep_ages().await?, config);
    found.extend(mailboxes(&db.mailbox_facts().await?));
    found.extend(examine_transactions(db, OPEN_FOR_LONG).await?);
    Ok(found)
}

fn sweeps(ages: &[(String, Duration, i64)], config: &Config) -> Vec<Diagnosis> {
    let late = LATE_SWEEP.max(3 * config.retention.sweep_interval);
    let is_on = |name: &str| JOBS.iter().any(|job| job.name == name && job.is_on(&config.retention));
    let ages: Vec<_> = ages.iter().filter(|(name, ..)| is_on(name)).collect();
    let mut found = Vec::new();
    for (name, age, _) in ages.iter().filter(|(_, age, _)| *age > late) {
        found.push(Diagnosis::weak(
            "sweeps",
            format!("the sweep {name} was last finished {} hours ago", age.as_secs() / 3600),
            "P10: old rows stay, tables grow, and retention is not kept",
            "Look for \"a sweep failed\" in the log of each replica, and for clocks that differ; ops/runbook.md, CatbirdBackgroundBehind",
        ));
    }
    for (name, _, aside) in ages.iter().filter(|(.., aside)| *aside > 0) {
        found.push(Diagnosis::weak(
            "set_aside",
            format!("the sweep {name} skips {aside} items, each of which fails alone"),
            "P10: they are not deleted when they are due",
            format!("`select * from set_aside where work = '{name}'` has the reasons"),
        ));
    }
    if found.is_empty() {
        let oldest = ages.iter().map(|(_, age, _)| age.as_secs()).max().unwrap_or(0);
        found.push(Diagnosis::ok(
            "sweeps",
            format!("every sweep was finished within the last {} minutes", oldest / 60 + 1),
        ));
    }
    found
}

fn mailboxes(MailboxFacts { overdue, unexpanded, dead }: &MailboxFacts) -> Vec<Diagnosis> {
    let mut found = Vec::new();
    if *overdue > LATE_MAILBOX {
        found.push(Diagnosis::weak(
            "mailboxes",
            format!("an envelope has been due for {} s and was not attempted", overdue.as_secs()),
            "P5: deliveries to mailboxes are late; the log has the entries",
            "See whether a replica serves, and its log; ops/runbook.md, CatbirdMailboxesBehind",
        ));
    }
    if *unexpanded > LATE_MAILBOX {
        found.push(Diagnosis::weak(
            "mailboxes",
            format!("an entry of the log has waited for {} s to be put into mailboxes", unexpanded.as_secs()),
            "P5: deliveries to mailboxes are late; the log has the entries",
            "See whether a replica serves, and its log; an open transaction that has written delays it too",
        ));
    }
    if *dead > 0 {
        found.push(Diagnosis::weak(
            "dead_envelopes",
            format!("{dead} envelopes were given up"),
            "P5: their recipients find the entries only in the log",
            "`catbird-server envelopes` lists them, and requeues them",
        ));
    }
    if found.is_empty() {
        found.push(Diagnosis::ok("mailboxes", "no delivery to a mailbox is late or given up"));
    }
    found
}

/// Examines transactions that have been open for longer than this.
pub(super) async fn examine_transactions(db: &Operator, than: Duration) -> Result<Vec<Diagnosis>, ConnectError> {
    let old = db.old_transactions(than).await?;
    if old.is_empty() {
        return Ok(vec![Diagnosis::ok(
            "open_transactions",
            "no transaction that this role sees has been open for a minute",
        )]);
    }
    let diagnosis = |(name, age): (String, Duration)| {
        Diagnosis::weak(
            "open_transactions",
            format!("the {name} is {} s old", age.as_secs()),
            "P5, P10: until it ends, nothing after it is read as settled, and no dead row is removed",
            "End it: `rollback prepared '…'`, or `select pg_terminate_backend(…)`",
        )
    };
    Ok(old.into_iter().map(diagnosis).collect())
}

#[cfg(test)]
mod tests {
    use catbird_testkit::cluster::database;

    use super::*;

    #[tokio::test]
    async fn a_transaction_that_wrote_and_stays_open_is_named_with_its_backend() {
        let database = database().await;
        let db = Operator::connect(&database.config).await.unwrap();
        let writer = database.connect().await;
        writer.batch_execute("begin; create temporary table mine (n int)").await.unwrap();
        let pid: i32 = writer.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
        let named = format!("transaction of backend {pid}");
        // The test does not wait until it is really old.
        let found = examine_transactions(&db, Duration::ZERO).await.unwrap();
        assert!(found.iter().any(|diagnosis| diagnosis.found.contains(&named)), "{found:?}");
        let found = examine_transactions(&db, OPEN_FOR_LONG).await.unwrap();
        assert!(!found.iter().any(|diagnosis| diagnosis.found.contains(&named)), "{found:?}");
    }
}
