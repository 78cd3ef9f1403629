//! Retention: each job deletes the right rows and keeps their neighbours, with several replicas at once, killed in the
//! middle, and with failures. P4 and P5 hold afterwards: accepted requests are still recognised, and a member never
//! misses an unread commit without being told. Abandoned conversations end completely.

mod devices;
mod ending;
mod failures;
mod logs;
mod replicas;
mod streams;
mod tables;

use std::time::Duration;

use catbird_server::clock::Clock;
use catbird_server::config::{BlobStore, Retention};
use catbird_server::jobs::{JOBS, Job, JobMetrics, Runner, SweepOutcome};
use catbird_server::metrics::Registry;
use catbird_server::objects::{ObjectMetrics, Objects};
use catbird_server::store::Store;
use catbird_testkit::app::TestApp;
use chrono::TimeDelta;
use tokio::sync::watch;
use tokio_postgres::Client;

/// Messages for 30 days, events for 7, unread and unopened entries for 90, conversations for 180, and a pass on every
/// call.
pub(crate) const KEPT: Retention = Retention {
    messages: Some(TimeDelta::days(30)),
    unread: Some(TimeDelta::days(90)),
    abandoned: Some(TimeDelta::days(180)),
    events: Some(TimeDelta::days(7)),
    sweep_interval: Duration::ZERO,
};

fn job(name: &str) -> &'static Job {
    JOBS.iter().find(|job| job.name == name).unwrap()
}

/// Runs one pass of a job.
pub(crate) async fn pass(store: &Store, retention: Retention, name: &str) -> SweepOutcome {
    let (_stop, mut stopped) = watch::channel(false);
    let metrics = JobMetrics::register(&mut Registry::default());
    Runner::new(store.clone(), Clock::system(), retention, no_blobs(), metrics)
        .pass(job(name), &mut stopped)
        .await
        .unwrap()
}

/// A blob store for jobs that use none.
fn no_blobs() -> Objects {
    let folder = std::env::temp_dir().join("catbird-no-blobs");
    Objects::open(&BlobStore::Folder(folder), ObjectMetrics::register(&mut Registry::default())).unwrap()
}

/// Runs one pass of a job, which must delete this many rows.
async fn sweeps(app: &TestApp, name: &str, rows: i64) {
    assert_eq!(pass(&app.app.store, KEPT, name).await, SweepOutcome::Made(rows), "{name}");
}

/// Returns the first column of a query, in its order.
pub(crate) async fn column<T: for<'a> tokio_postgres::types::FromSql<'a>>(db: &Client, query: &str) -> Vec<T> {
    db.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}
