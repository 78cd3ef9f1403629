//! Retention: deletes old rows, so that tables and the time to search them stay bounded.
//!
//! One task per process runs the jobs one after the other. One replica at a time makes a job's pass: it starts the pass
//! in the table `sweeps`, and each of its small transactions takes the job's advisory lock. The task pauses four times
//! as long as its last transaction took, so it uses at most a fifth of one connection; a pass that is behind pauses
//! only as long as it works. If a replica dies, another continues its pass. Work that fails is retried in smaller parts
//! and then skipped for a while ([`crate::background::portion`]). One job deletes nothing: [`devices`]
//! tells members of devices.
//!
//! PostgreSQL's clock and the row itself decide what is old, with two exceptions: commits wait for members that have
//! not read them ([`messages`]), and conversations end if no member is active ([`abandoned`]).

mod abandoned;
mod allowances;
mod blobs;
mod commit_reports;
mod devices;
mod did_documents;
mod envelopes;
mod events;
mod key_packages;
mod messages;
mod metrics;
mod nonces;
mod records;
mod unopened;
mod used_tokens;
mod welcomes;

pub use metrics::JobMetrics;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use ulid::Ulid;

use crate::background::portion::Portion;
use crate::clock::Clock;
use crate::config::Retention;
use crate::error::{Code, Error};
use crate::objects::Objects;
use crate::store::device_announcements::{Announced, MAX_ANNOUNCED};
use crate::store::sweeps::{Begun, Chunk, ChunkResult, Sweep, Table, USED_TOKEN_SLOTS};
use crate::store::{Failed, Lane, Store};

/// Interval at which the task checks for due jobs. It waits before the first check, so that a start is not slowed down.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Ratio between the pause and the transaction before it, normally and while a pass is behind.
const PAUSE_FACTOR: u32 = 4;
const PAUSE_FACTOR_BEHIND: u32 = 1;
/// Maximum pause.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Pages of a table in one transaction: half a megabyte, at most some thousand small rows.
const MAX_PAGES: i64 = 64;
/// Entries of logs in one transaction, of one or several conversations, and members and rows of a conversation that
/// ends; the bytes of entries have a separate limit.
const MAX_ENTRIES: i64 = 500;
/// Conversations in one such transaction.
const MAX_LOGS: i64 = 50;
/// Conversations that one statement examines.
const MAX_CONVOS: i64 = 200;
/// Blobs, and objects of blobs, of one transaction.
const MAX_BLOBS: i64 = 100;
/// Age from which on what a server has left of an object is deleted. The largest blob takes 27 minutes at the smallest rate.
const UNFINISHED_AGE: TimeDelta = TimeDelta::hours(1);
/// Devices that one statement returns.
const MAX_DEVICES: i64 = 200;
/// Number of consecutive failures after which the pass ends, because their cause is not in the items.
const MAX_CONSECUTIVE_FAILURES: u32 = 10;
/// Interval at which a pass stores its position even if it finds nothing.
const POSITION_INTERVAL: Duration = Duration::from_secs(5);
/// Interval at which the state of the jobs at all replicas is measured.
const STATUS_INTERVAL: Duration = Duration::from_secs(15);

/// A retention job.
pub struct Job {
    /// Name in metrics, in the log, and in the table `sweeps`.
    pub name: &'static str,
    /// Maximum time between two passes, whatever the configuration says.
    max_interval: Option<Duration>,
    /// Age from which rows are deleted; `None` if none are.
    age: fn(&Retention) -> Option<TimeDelta>,
    work: Work,
}

impl Job {
    /// Returns whether this configuration ever runs it.
    pub fn is_on(&self, retention: &Retention) -> bool {
        (self.age)(retention).is_some()
    }
}

/// Kind of a pass.
enum Work {
    /// All pages of a table, in order.
    Pages(Table),
    /// The logs of all conversations, in order.
    Logs,
    /// Slots of used tokens.
    UsedTokens,
    /// Abandoned conversations, in order.
    Abandoned,
    /// Devices of which members are still to be told, in order.
    Devices,
    /// Blobs that no message refers to, and then the objects that were given up.
    Blobs,
}

/// All jobs in the order in which they run. Idempotency records come before the messages that they refer to.
pub static JOBS: [Job; 15] = [
    devices::JOB,
    used_tokens::JOB,
    nonces::JOB,
    allowances::JOB,
    records::JOB,
    messages::JOB,
    events::JOB,
    envelopes::JOB,
    key_packages::JOB,
    welcomes::JOB,
    unopened::JOB,
    abandoned::JOB,
    commit_reports::JOB,
    did_documents::JOB,
    blobs::JOB,
];

/// Result of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SweepOutcome {
    /// It is complete and has deleted this many rows.
    Made(i64),
    /// The configuration never deletes anything.
    Off,
    /// It was made a short while ago, or another replica is making it.
    NotNow,
    /// This replica's clock differs from PostgreSQL's, so the age of rows is uncertain.
    WrongClock,
    /// The server is shutting down.
    Stopped,
}

/// Runs the jobs of one process.
#[derive(Clone)]
pub struct Runner {
    store: Store,
    clock: Clock,
    retention: Retention,
    objects: Objects,
    metrics: JobMetrics,
}

impl Runner {
    pub fn new(store: Store, clock: Clock, retention: Retention, objects: Objects, metrics: JobMetrics) -> Self {
        Self { store, clock, retention, objects, metrics }
    }

    /// Runs every job when it is due, until it is stopped.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let (mut wrong_clock, mut looked) = (false, None::<Instant>);
        while !stopped_within(POLL_INTERVAL, &mut stop).await {
            for job in &JOBS {
                match self.pass(job, &mut stop).await {
                    Ok(SweepOutcome::Stopped) => return,
                    Ok(SweepOutcome::Made(deleted)) => {
                        wrong_clock = false;
                        // This job runs every few seconds and deletes no rows.
                        if !matches!(job.work, Work::Devices) {
                            tracing::info!(job = job.name, deleted, "swept");
                        }
                    }
                    Ok(SweepOutcome::Off) => {}
                    Ok(SweepOutcome::NotNow) => wrong_clock = false,
                    Ok(SweepOutcome::WrongClock) => {
                        if !std::mem::replace(&mut wrong_clock, true) {
                            tracing::error!("sweeps are off on this replica: its clock and PostgreSQL's differ");
                        }
                        break;
                    }
                    // Another replica, or this one later, continues the pass.
                    Err(error) => tracing::warn!(job = job.name, %error, "a sweep failed"),
                }
            }
            if looked.is_none_or(|at| at.elapsed() >= STATUS_INTERVAL) {
                looked = Some(Instant::now());
                self.measure().await;
            }
        }
    }

    /// Updates the metrics on the jobs of all replicas, on conversations, and on PostgreSQL.
    async fn measure(&self) {
        let Ok(work_states) = self.store.work_states().await else { return };
        for state in work_states {
            if let Some(job) = JOBS.iter().find(|job| job.name == state.work) {
                self.metrics.background_state(job.name, state.age, state.aside);
            }
        }
        if let Ok(wedged) = self.store.wedged_convos().await {
            self.metrics.wedged_convos(wedged);
        }
        if let Err(error) = self.store.measure_server().await {
            tracing::debug!(%error, "the state of PostgreSQL could not be measured");
        }
    }

    /// Runs one pass of a job if it is due.
    pub async fn pass(&self, job: &'static Job, stop: &mut watch::Receiver<bool>) -> Result<SweepOutcome, Error> {
        let Some(age) = (job.age)(&self.retention) else { return Ok(SweepOutcome::Off) };
        if !self.store.agrees_with(&self.clock).await? {
            return Ok(SweepOutcome::WrongClock);
        }
        let every = self.retention.sweep_interval.min(job.max_interval.unwrap_or(Duration::MAX));
        let Some(begun) = self.store.begin_sweep(job.name, every, age).await? else { return Ok(SweepOutcome::NotNow) };
        let other_age = match job.work {
            Work::Pages(_) | Work::UsedTokens | Work::Devices | Work::Blobs => None,
            Work::Logs => self.retention.unread,
            Work::Abandoned => Some(abandoned::ENDED_RETENTION),
        };
        let other_cutoff = other_age.map(|other| begun.cutoff + age - other);
        let aside = self.store.aside(job.name).await?;
        let now = Instant::now();
        let mut pass = Progress {
            store: &self.store,
            job,
            begun,
            other_cutoff,
            every,
            aside,
            stop,
            start: now,
            noted: now,
            deleted: 0,
            consecutive_failures: 0,
        };
        let ended = match job.work {
            Work::Pages(table) => pass.pages(table).await,
            Work::UsedTokens => pass.used_tokens().await,
            Work::Logs | Work::Abandoned => pass.convos().await,
            Work::Devices => pass.devices().await,
            Work::Blobs => pass.blobs(&self.objects).await,
        };
        let (deleted, start) = (pass.deleted, pass.start);
        self.metrics.swept(job.name, deleted);
        if let Some(early) = ended? {
            return Ok(early);
        }
        self.store.finish_sweep(job.name).await?;
        self.metrics.sweep_finished(job.name, self.clock.now(), start.elapsed());
        Ok(SweepOutcome::Made(deleted))
    }
}

/// A pass in progress.
struct Progress<'r> {
    store: &'r Store,
    job: &'static Job,
    begun: Begun,
    /// Cutoff for further deletions: unread commits, or the rows of ended conversations.
    other_cutoff: Option<DateTime<Utc>>,
    every: Duration,
    /// Skipped items, with true if their retry is due.
    aside: HashMap<String, bool>,
    stop: &'r mut watch::Receiver<bool>,
    start: Instant,
    /// Time at which the position was last stored.
    noted: Instant,
    deleted: i64,
    /// Consecutive failures.
    consecutive_failures: u32,
}

/// Result of one transaction.
enum Step {
    Done(ChunkResult),
    /// Its own work failed.
    Failed(Error),
    /// The pass ends here.
    Early(SweepOutcome),
}

impl Progress<'_> {
    /// Runs one transaction and pauses after it.
    async fn sweep_chunk(&mut self, chunk: Chunk, place: String) -> Result<Step, Error> {
        let start = Instant::now();
        let note = self.noted.elapsed() >= POSITION_INTERVAL;
        let (job, cutoff) = (self.job.name, self.begun.cutoff);
        let step = match self.store.unit(Sweep { job, cutoff, chunk, place, note }).await {
            Ok(None) => return Ok(Step::Early(SweepOutcome::NotNow)),
            Ok(Some(result)) => {
                if result.deleted > 0 || note {
                    self.noted = Instant::now();
                }
                self.deleted += result.deleted;
                self.consecutive_failures = 0;
                Step::Done(result)
            }
            Err(Failed::Itself(error)) => Step::Failed(error),
            Err(around) => return Err(around.into()),
        };
        Ok(if self.pause(start.elapsed()).await { Step::Early(SweepOutcome::Stopped) } else { step })
    }

    /// Pauses after work of this duration, and returns whether the server is stopping.
    async fn pause(&mut self, took: Duration) -> bool {
        let factor = if self.start.elapsed() > self.every { PAUSE_FACTOR_BEHIND } else { PAUSE_FACTOR };
        stopped_within((took * factor).min(MAX_PAUSE), self.stop).await
    }

    /// Skips an item whose own work fails. Fails after too many in a row.
    async fn set_aside(&mut self, item: String, why: Error) -> Result<(), Error> {
        tracing::warn!(job = self.job.name, %why, "part of a sweep fails; it is skipped for a while");
        tracing::debug!(job = self.job.name, item, "the skipped part of the sweep");
        self.store.set_aside(self.job.name, item.clone(), &why).await?;
        self.aside.insert(item, false);
        self.consecutive_failures += 1;
        if self.consecutive_failures < MAX_CONSECUTIVE_FAILURES { Ok(()) } else { Err(why) }
    }

    /// Stops skipping items that succeeded.
    async fn take_back(&mut self, items: Vec<String>) -> Result<(), Error> {
        let items: Vec<String> = items.into_iter().filter(|item| self.aside.remove(item).is_some()).collect();
        if items.is_empty() { Ok(()) } else { self.store.take_back(self.job.name, items).await }
    }

    fn is_skipped(&self, item: &str) -> bool {
        self.aside.get(item).is_some_and(|due| !due)
    }

    /// Sweeps the pages of a table. Returns the reason if the pass ended early.
    async fn pages(&mut self, table: Table) -> Result<Option<SweepOutcome>, Error> {
        let end = self.store.reader_for(Lane::Background).await?.pages(table).await?;
        let mut from = self.begun.place.as_ref().and_then(|place| place.parse().ok()).unwrap_or(0);
        let mut portion = Portion::new(MAX_PAGES);
        while from < end {
            // Up to the next page that is skipped.
            let pages = (from..from + portion.size()).take_while(|page| !self.is_skipped(&page.to_string())).count();
            if pages == 0 {
                from += 1;
                continue;
            }
            let next = from + pages as i64;
            match self.sweep_chunk(Chunk::Pages { table, from, pages: pages as i64 }, next.to_string()).await? {
                Step::Done(result) if result.more.contains(&from.to_string()) => {}
                Step::Done(_) => {
                    self.take_back((from..next).map(|page| page.to_string()).collect()).await?;
                    from = next;
                    portion.grow();
                }
                Step::Failed(_) if portion.shrink() => {}
                Step::Failed(why) => {
                    self.set_aside(from.to_string(), why).await?;
                    from += 1;
                }
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        Ok(None)
    }

    /// Deletes expired blobs, then the bytes of all objects that were given up.
    async fn blobs(&mut self, objects: &Objects) -> Result<Option<SweepOutcome>, Error> {
        objects.delete_unfinished(self.begun.cutoff - UNFINISHED_AGE).await?;
        let unused = Chunk::UnusedBlobs { blobs: MAX_BLOBS };
        loop {
            match self.sweep_chunk(unused.clone(), String::new()).await? {
                Step::Done(result) if result.more.is_empty() => break,
                Step::Done(_) => {}
                Step::Failed(why) => return Err(why),
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        let mut after = String::new();
        loop {
            let reader = self.store.reader_for(Lane::Background).await?;
            let names = reader.given_up_objects(&after, MAX_BLOBS).await?;
            drop(reader);
            let Some(last) = names.last() else { return Ok(None) };
            after = last.clone();
            for name in &names {
                objects.delete(name).await?;
            }
            match self.sweep_chunk(Chunk::GivenUpObjects { names }, after.clone()).await? {
                Step::Done(_) => {}
                Step::Failed(why) => return Err(why),
                Step::Early(early) => return Ok(Some(early)),
            }
        }
    }

    async fn used_tokens(&mut self) -> Result<Option<SweepOutcome>, Error> {
        for slot in 0..USED_TOKEN_SLOTS {
            match self.sweep_chunk(Chunk::UsedTokens { slot }, slot.to_string()).await? {
                Step::Done(_) => {}
                Step::Failed(why) => return Err(why),
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        Ok(None)
    }

    /// Tells members of new and deleted devices, where the requests have not.
    async fn devices(&mut self) -> Result<Option<SweepOutcome>, Error> {
        let mut after = Announced::default();
        loop {
            let reader = self.store.reader_for(Lane::Background).await?;
            let open = reader.devices_to_announce(&after, MAX_DEVICES).await?;
            drop(reader);
            let Some(last) = open.last() else { return Ok(None) };
            after = last.clone();
            for device in open {
                if let Some(early) = self.announce(device).await? {
                    return Ok(Some(early));
                }
            }
        }
    }

    /// Tells the members of all conversations of a device's owner.
    async fn announce(&mut self, device: Announced) -> Result<Option<SweepOutcome>, Error> {
        let mut portion = Portion::new(MAX_ANNOUNCED as i64);
        while !self.is_skipped(&device.device_id) {
            let ids = (0..portion.size()).map(|_| Ulid::new().to_string()).collect();
            match self.sweep_chunk(Chunk::Device { device: device.clone(), ids }, device.device_id.clone()).await? {
                Step::Done(result) if result.more.contains(&device.device_id) => portion.grow(),
                Step::Done(_) => {
                    self.take_back(vec![device.device_id]).await?;
                    break;
                }
                Step::Failed(_) if portion.shrink() => {}
                Step::Failed(why) => self.set_aside(device.device_id.clone(), why).await?,
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        Ok(None)
    }

    async fn convos(&mut self) -> Result<Option<SweepOutcome>, Error> {
        let mut after = self.begun.place.take().unwrap_or_default();
        let (mut looking, mut deleting) = (Portion::new(MAX_CONVOS), Portion::new(MAX_ENTRIES));
        loop {
            let start = Instant::now();
            let reader = self.store.reader_for(Lane::Background).await?;
            let (cutoff, size) = (self.begun.cutoff, looking.size());
            let looked = match (&self.job.work, self.other_cutoff) {
                (Work::Abandoned, Some(ended_before)) => reader.convos_due(&after, cutoff, size, ended_before).await,
                (_, unread_before) => reader.logs_due(&after, cutoff, size, unread_before).await,
            };
            drop(reader);
            if self.pause(start.elapsed()).await {
                return Ok(Some(SweepOutcome::Stopped));
            }
            let (due, last) = match looked {
                Ok(looked) => looked,
                Err(error) if error.code == Code::DatabaseUnavailable => return Err(error),
                Err(_) if looking.shrink() => continue,
                Err(why) => {
                    let Some(convo) = self.store.reader_for(Lane::Background).await?.next_convo(&after).await? else {
                        return Ok(None);
                    };
                    self.set_aside(convo.clone(), why).await?;
                    after = convo;
                    continue;
                }
            };
            looking.grow();
            let due = due.into_iter().filter(|convo| !self.is_skipped(convo)).collect();
            if let Some(early) = self.delete(due, &after, &mut deleting).await? {
                return Ok(Some(early));
            }
            match last {
                Some(last) => after = last,
                None => return Ok(None),
            }
        }
    }

    /// Deletes the old rows of these conversations, a part of each in turn, until none are left.
    async fn delete(
        &mut self,
        mut due: VecDeque<String>,
        after: &str,
        portion: &mut Portion,
    ) -> Result<Option<SweepOutcome>, Error> {
        while !due.is_empty() {
            let at_once = if let Work::Abandoned = self.job.work { 1 } else { MAX_LOGS };
            let convos = (due.len() as i64).min(portion.size()).min(at_once);
            let part: Vec<String> = due.iter().take(convos as usize).cloned().collect();
            let chunk = match (&self.job.work, self.other_cutoff) {
                (Work::Abandoned, Some(ended_before)) => {
                    Chunk::Convo { convo: part.concat(), rows: portion.size(), ended_before }
                }
                (_, unread_before) => {
                    Chunk::Logs { convos: part.clone(), entries: portion.size() / convos, unread_before }
                }
            };
            match self.sweep_chunk(chunk, after.to_owned()).await? {
                Step::Done(result) => {
                    portion.grow();
                    due.drain(..part.len());
                    let (more, done): (Vec<_>, Vec<_>) =
                        part.into_iter().partition(|convo| result.more.contains(convo));
                    due.extend(more);
                    self.take_back(done).await?;
                }
                Step::Failed(_) if portion.shrink() => {}
                Step::Failed(why) => {
                    due.pop_front();
                    self.set_aside(part.concat(), why).await?;
                }
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        Ok(None)
    }
}

/// Waits, and returns whether the server is stopping, which ends the wait; so does the end of the sender.
async fn stopped_within(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await.is_ok()
}
