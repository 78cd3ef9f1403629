//! Retention: deletes what is old, so that tables and the time to search them stay within bounds.
//!
//! One task per process runs the jobs, one file each, one after the other. A job's pass is made by one replica at a time: it is
//! begun in the table `sweeps`, where the others see that it was, and each of its transactions takes the job's advisory lock. They
//! are small, and between two of them the task rests four times as long as the last one took, so sweeping never takes more than a
//! fifth of one connection. Nothing here runs inside a request, and nothing waits for it. A pass that dies with its replica has
//! deleted what it had deleted; the next one begins at the beginning.
//!
//! What a job deletes is old by a rule that needs nothing but the row itself, except for commits: those that an active member has
//! yet to read stay, however old ([`messages`]).

mod envelopes;
mod events;
mod key_packages;
mod messages;
mod nonces;
mod records;
mod welcomes;

use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::Retention;
use crate::error::Error;
use crate::store::Store;
use crate::store::sweeps::{Bite, Table};

/// How often the task looks whether a job is due. At the first look it waits a moment, so that a start is not slowed down.
const LOOK: Duration = Duration::from_secs(5);
/// How much longer than the last transaction the task rests before the next one.
const REST: u32 = 4;
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// A kind of sweep.
pub struct Job {
    /// Its name in metrics, in the log, and in the table `sweeps`.
    pub name: &'static str,
    /// The longest time between two passes, whatever the configuration says.
    at_least_every: Option<Duration>,
    /// What is older than this is deleted; `None` if nothing is.
    cutoff: fn(&Retention, DateTime<Utc>) -> Option<DateTime<Utc>>,
    work: Work,
}

/// How a pass goes about it.
enum Work {
    /// From the first page of a table to its last.
    Pages(Table),
    /// From the first conversation to the last.
    Logs,
}

/// Every job, in the order in which they run. Records go before the messages that they answer with.
pub static JOBS: [Job; 7] =
    [nonces::JOB, records::JOB, messages::JOB, events::JOB, envelopes::JOB, key_packages::JOB, welcomes::JOB];

/// What came of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It was made, and so many rows were deleted.
    Made(i64),
    /// Nothing is ever too old, by the configuration.
    Off,
    /// It was made a short while ago, or another replica is at it.
    NotNow,
    /// The server shuts down.
    Stopped,
}

/// Runs the jobs of one process.
#[derive(Clone)]
pub struct Runner {
    store: Store,
    clock: Clock,
    retention: Retention,
}

impl Runner {
    pub fn new(store: Store, clock: Clock, retention: Retention) -> Self {
        Self { store, clock, retention }
    }

    /// Runs every job whenever it is due, until told to stop.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        while !stopped_within(LOOK, &mut stop).await {
            for job in &JOBS {
                match self.pass(job, &mut stop).await {
                    Ok(Pass::Stopped) => return,
                    Ok(Pass::Made(deleted)) => tracing::info!(job = job.name, deleted, "swept"),
                    Ok(Pass::Off | Pass::NotNow) => {}
                    // Another replica, or this one later, goes on.
                    Err(error) => tracing::warn!(job = job.name, %error, "a sweep could not be finished"),
                }
            }
        }
    }

    /// One pass of a job, if it is due.
    pub async fn pass(&self, job: &'static Job, stop: &mut watch::Receiver<bool>) -> Result<Pass, Error> {
        let Some(cutoff) = (job.cutoff)(&self.retention, self.clock.now()) else { return Ok(Pass::Off) };
        let every = self.retention.every.min(job.at_least_every.unwrap_or(Duration::MAX));
        if !self.store.begin_sweep(job.name, every, cutoff).await? {
            return Ok(Pass::NotNow);
        }
        let start = Instant::now();
        let mut pass = Progress { store: &self.store, job, cutoff, stop, deleted: 0 };
        let ended = match job.work {
            Work::Pages(table) => pass.pages(table).await,
            Work::Logs => pass.logs().await,
        };
        let deleted = pass.deleted;
        let metrics = self.store.metrics();
        metrics.swept(job.name, deleted);
        if let Some(early) = ended? {
            return Ok(early);
        }
        self.store.finish_sweep(job.name).await?;
        metrics.sweep_finished(job.name, self.clock.now(), start.elapsed());
        Ok(Pass::Made(deleted))
    }
}

/// A pass under way.
struct Progress<'r> {
    store: &'r Store,
    job: &'static Job,
    cutoff: DateTime<Utc>,
    stop: &'r mut watch::Receiver<bool>,
    deleted: i64,
}

impl Progress<'_> {
    /// One transaction and the rest after it: whether there is more of the same, or why the pass ends here.
    async fn bite(&mut self, bite: Bite) -> Result<Result<bool, Pass>, Error> {
        let start = Instant::now();
        let Some(bitten) = self.store.bite(self.job.name, self.cutoff, bite).await? else {
            return Ok(Err(Pass::NotNow));
        };
        self.deleted += bitten.deleted;
        let rest = (start.elapsed() * REST).min(LONGEST_REST);
        Ok(if stopped_within(rest, self.stop).await { Err(Pass::Stopped) } else { Ok(bitten.more) })
    }

    /// Why the pass ended early; `None` if it was made.
    async fn pages(&mut self, table: Table) -> Result<Option<Pass>, Error> {
        for bite in self.store.reader().await?.bites(table).await? {
            if let Err(early) = self.bite(bite).await? {
                return Ok(Some(early));
            }
        }
        Ok(None)
    }

    async fn logs(&mut self) -> Result<Option<Pass>, Error> {
        let mut after = String::new();
        loop {
            let start = Instant::now();
            let (due, last) = self.store.reader().await?.logs_due(&after, self.cutoff).await?;
            if stopped_within((start.elapsed() * REST).min(LONGEST_REST), self.stop).await {
                return Ok(Some(Pass::Stopped));
            }
            for convo in due {
                loop {
                    match self.bite(Bite::Log { convo: convo.clone() }).await? {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(early) => return Ok(Some(early)),
                    }
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(None),
            }
        }
    }
}

/// Waits, and says whether the server is to stop, which ends the wait. So does the end of whoever would say it.
async fn stopped_within(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await.is_ok()
}

/// The time so long ago.
fn ago(now: DateTime<Utc>, age: TimeDelta) -> Option<DateTime<Utc>> {
    now.checked_sub_signed(age)
}
