//! `catbird-server doctor`: finds settings and states of PostgreSQL, a pooler, Redis, the blob store, this machine and the server
//! itself under which a promise does not hold, or holds less, and says what to do.
//!
//! Each file examines one part. It judges what it reads; the store reads. Nothing is changed, but for an object of this command's own in
//! the blob store. [`check`](crate::check) shows a part of this ([`advice`]), so that a setting is judged in one place only.

mod blobs;
mod capacity;
mod fleet;
mod machine;
mod own;
mod redis;
mod report;
mod schema;
mod server;
mod server_settings;
mod sessions;
mod tables;
mod work;

use std::time::Duration;

use tokio::time::timeout;

use crate::clock::Clock;
use crate::config::Config;
use crate::replicas::ALIVE;
use crate::store::{Applied, ConnectError, Operator, Replica};

pub use report::{Diagnosis, Report, Severity, Unexamined};

/// Maximum time to examine one part.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Name of the migration that makes the table of replicas.
const OF_REPLICAS: &str = "replicas";

/// Examines everything. `database` is the one that the configuration leads to. A part that cannot be examined is named in the
/// report, and the others are examined nevertheless.
pub async fn run(config: &Config, database: &tokio_postgres::Config, clock: &Clock) -> Report {
    let mut report = Report::default();
    report.add(own::examine(config));
    report.add(machine::examine(config));
    if let Some(url) = &config.redis_url {
        report.add(redis::examine(url).await);
    }
    report.add([blobs::examine(config).await]);
    let is_embedded = config.database_url.is_none();
    if !is_embedded {
        report.add(sessions::examine_url(database));
    }
    if let Some(db) = report.take("PostgreSQL", within(Operator::connect(database)).await) {
        examine_database(&mut report, &db, config, clock).await;
        report.part("the connections of the server", sessions::examine(config, database)).await;
    }
    report
}

async fn examine_database(report: &mut Report, db: &Operator, config: &Config, clock: &Clock) {
    let Some(applied) = report.take("the schema", within(db.applied_migrations()).await) else { return };
    let replicas = match knows_replicas(applied.as_deref()) {
        true => report.take("the replicas", within(db.replicas(ALIVE)).await),
        false => None,
    };
    let known = replicas.as_deref().unwrap_or_default();
    report.part("PostgreSQL's settings", server_settings::examine(db, known)).await;
    report.part("the PostgreSQL server", server::examine(db, clock, config.database_url.is_none())).await;
    report.part("PostgreSQL's capacity", capacity::examine(db, config, known)).await;
    report.add([schema::examine_history(applied.as_deref())]);
    if applied.is_none() {
        return;
    }
    report.part("indexes, constraints and triggers", schema::examine_objects(db, applied.as_deref())).await;
    if let Some(replicas) = &replicas {
        report.part("the replicas", fleet::examine(db, config, replicas)).await;
        report.add(blobs::judge_sharing(replicas));
    }
    report.part("the tables", tables::examine(db)).await;
    report.part("work in the background", work::examine(db, config)).await;
}

/// Returns what `check` warns of: settings of PostgreSQL and open transactions that touch a promise.
pub async fn advice(database: &tokio_postgres::Config) -> Result<Vec<Diagnosis>, ConnectError> {
    let db = Operator::connect(database).await?;
    let applied = db.applied_migrations().await?;
    let replicas = match knows_replicas(applied.as_deref()) {
        // A standby cannot read it.
        true => db.replicas(ALIVE).await.unwrap_or_default(),
        false => Vec::new(),
    };
    let mut found = server_settings::examine(&db, &replicas).await?;
    found.extend(work::examine_transactions(&db, work::OPEN_FOR_LONG).await?);
    found.retain(|diagnosis| diagnosis.severity != Severity::Ok);
    Ok(found)
}

fn knows_replicas(applied: Option<&[Applied]>) -> bool {
    applied.is_some_and(|applied| applied.iter().any(|migration| migration.name == OF_REPLICAS))
}

impl Report {
    /// Adds the diagnoses of a part, or notes that it could not be examined.
    async fn part(&mut self, part: &'static str, examine: impl Future<Output = Result<Vec<Diagnosis>, ConnectError>>) {
        let found = within(examine).await;
        let found = self.take(part, found).unwrap_or_default();
        self.add(found);
    }
}

/// Waits for a part for as long as it may take. The error is in words.
async fn within<T>(read: impl Future<Output = Result<T, ConnectError>>) -> Result<T, String> {
    match timeout(MAX_TIME, read).await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", MAX_TIME.as_secs())),
    }
}

/// The roles of these replicas.
fn roles(replicas: &[Replica]) -> Vec<&str> {
    replicas.iter().map(|replica| replica.role.as_str()).collect()
}
