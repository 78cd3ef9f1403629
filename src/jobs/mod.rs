//! Retention: deletes what is old, so that tables and the time to search them stay within bounds.
//!
//! One task per process runs the jobs, one file each, one after the other. A job's pass is made by one replica at a time: it is
//! begun in the table `sweeps`, where the others see that it was, and each of its transactions takes the job's advisory lock. They
//! are small, and between two of them the task rests four times as long as the last one took, so sweeping takes no more than a
//! fifth of one connection; a pass that lasts longer than the time between two passes is behind, and rests no longer than it works.
//! Nothing here runs inside a request, and nothing waits for it. A pass that dies with its replica has deleted what it had deleted,
//! and another replica goes on from there. What fails is tried in smaller parts and then left out for a while
//! ([`crate::background::portion`]).
//!
//! What a job deletes is old by PostgreSQL's clock and by a rule that needs nothing but the row itself, with two exceptions: commits
//! wait for those who have yet to read them, if not for ever ([`messages`]), and conversations end if nobody was there ([`abandoned`]).

mod abandoned;
mod allowances;
mod did_documents;
mod envelopes;
mod events;
mod key_packages;
mod messages;
mod nonces;
mod records;
mod unopened;
mod used_tokens;
mod welcomes;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;

use crate::background::portion::Portion;
use crate::clock::Clock;
use crate::config::Retention;
use crate::error::{Code, Error};
use crate::store::sweeps::{Begun, Bite, Bitten, Sweep, Table, USED_TOKEN_SLOTS};
use crate::store::{Failed, Lane, Store};

/// How often the task looks whether a job is due. At the first look it waits a moment, so that a start is not slowed down.
const LOOK: Duration = Duration::from_secs(5);
/// How much longer than the last transaction the task rests before the next one, and how much while it is behind.
const REST: u32 = 4;
const REST_BEHIND: u32 = 1;
/// The longest such rest.
const LONGEST_REST: Duration = Duration::from_secs(2);
/// Pages of a table in one transaction: half a megabyte, some thousand small rows at most.
const PAGES_AT_ONCE: i64 = 64;
/// Entries of logs in one transaction, of one conversation or of several together, and members and rows of one that ends; the bytes of
/// entries have a limit of their own.
const ENTRIES_AT_ONCE: i64 = 500;
/// Conversations in one such transaction.
const LOGS_AT_ONCE: i64 = 50;
/// Conversations that are looked at in one statement.
const CONVOS_AT_ONCE: i64 = 200;
/// How much may be set aside one after the other before the pass ends, because it is not their fault.
const MOST_IN_A_ROW: u32 = 10;
/// How often a pass says where it is although it finds nothing.
const NOTE: Duration = Duration::from_secs(5);
/// How often it is looked how the jobs of all replicas stand.
const STANDING: Duration = Duration::from_secs(15);

/// A kind of sweep.
pub struct Job {
    /// Its name in metrics, in the log, and in the table `sweeps`.
    pub name: &'static str,
    /// The longest time between two passes, whatever the configuration says.
    at_least_every: Option<Duration>,
    /// The age from which on rows are deleted; `None` if none are.
    age: fn(&Retention) -> Option<TimeDelta>,
    work: Work,
}

/// How a pass goes about it.
enum Work {
    /// From the first page of a table to its last.
    Pages(Table),
    /// The logs of conversations, from the first to the last.
    Logs,
    /// The slots of used tokens.
    UsedTokens,
    /// Conversations that nobody comes back to, from the first to the last.
    Abandoned,
}

/// Every job, in the order in which they run. Records go before the messages that they answer with.
pub static JOBS: [Job; 12] = [
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
    did_documents::JOB,
];

/// What came of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// It was made, and so many rows were deleted.
    Made(i64),
    /// Nothing is ever too old, by the configuration.
    Off,
    /// It was made a short while ago, or another replica is at it.
    NotNow,
    /// This replica's clock is not PostgreSQL's, so one of them is wrong, and nobody knows what is old.
    WrongClock,
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
        let (mut wrong_clock, mut looked) = (false, None::<Instant>);
        while !stopped_within(LOOK, &mut stop).await {
            for job in &JOBS {
                match self.pass(job, &mut stop).await {
                    Ok(Pass::Stopped) => return,
                    Ok(Pass::Made(deleted)) => {
                        wrong_clock = false;
                        tracing::info!(job = job.name, deleted, "swept");
                    }
                    Ok(Pass::Off) => {}
                    Ok(Pass::NotNow) => wrong_clock = false,
                    Ok(Pass::WrongClock) => {
                        if !std::mem::replace(&mut wrong_clock, true) {
                            tracing::error!("nothing is swept here: this machine's clock and PostgreSQL's differ");
                        }
                        break;
                    }
                    // Another replica, or this one later, goes on.
                    Err(error) => tracing::warn!(job = job.name, %error, "a sweep could not be finished"),
                }
            }
            if looked.is_none_or(|at| at.elapsed() >= STANDING) {
                looked = Some(Instant::now());
                self.measure().await;
            }
        }
    }

    /// Brings the metrics up to date on how the jobs of all replicas stand.
    async fn measure(&self) {
        let Ok(standings) = self.store.standings().await else { return };
        for standing in standings {
            if let Some(job) = JOBS.iter().find(|job| job.name == standing.work) {
                self.store.metrics().background_standing(job.name, standing.age, standing.aside);
            }
        }
    }

    /// One pass of a job, if it is due.
    pub async fn pass(&self, job: &'static Job, stop: &mut watch::Receiver<bool>) -> Result<Pass, Error> {
        let Some(age) = (job.age)(&self.retention) else { return Ok(Pass::Off) };
        if !self.store.agrees_with(&self.clock).await? {
            return Ok(Pass::WrongClock);
        }
        let every = self.retention.every.min(job.at_least_every.unwrap_or(Duration::MAX));
        let Some(begun) = self.store.begin_sweep(job.name, every, age).await? else { return Ok(Pass::NotNow) };
        let other_age = match job.work {
            Work::Pages(_) | Work::UsedTokens => None,
            Work::Logs => self.retention.unread,
            Work::Abandoned => Some(abandoned::LINGER),
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
            in_a_row: 0,
        };
        let ended = match job.work {
            Work::Pages(table) => pass.pages(table).await,
            Work::UsedTokens => pass.used_tokens().await,
            Work::Logs | Work::Abandoned => pass.convos().await,
        };
        let (deleted, start) = (pass.deleted, pass.start);
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
    begun: Begun,
    /// What is older counts as old enough for more: unread commits, or rows of what has ended.
    other_cutoff: Option<DateTime<Utc>>,
    every: Duration,
    /// What is set aside, and whether its time has come.
    aside: HashMap<String, bool>,
    stop: &'r mut watch::Receiver<bool>,
    start: Instant,
    /// When the place was noted.
    noted: Instant,
    deleted: i64,
    /// How much was set aside since something was done.
    in_a_row: u32,
}

/// What came of a unit.
enum Step {
    Done(Bitten),
    /// It failed by itself.
    Failed(Error),
    /// The pass ends here.
    Early(Pass),
}

impl Progress<'_> {
    /// One transaction and the rest after it.
    async fn bite(&mut self, bite: Bite, place: String) -> Result<Step, Error> {
        let start = Instant::now();
        let note = self.noted.elapsed() >= NOTE;
        let (job, cutoff) = (self.job.name, self.begun.cutoff);
        let step = match self.store.unit(Sweep { job, cutoff, bite, place, note }).await {
            Ok(None) => return Ok(Step::Early(Pass::NotNow)),
            Ok(Some(bitten)) => {
                if bitten.deleted > 0 || note {
                    self.noted = Instant::now();
                }
                self.deleted += bitten.deleted;
                self.in_a_row = 0;
                Step::Done(bitten)
            }
            Err(Failed::Itself(error)) => Step::Failed(error),
            Err(around) => return Err(around.into_error()),
        };
        Ok(if self.rests(start.elapsed()).await { Step::Early(Pass::Stopped) } else { step })
    }

    /// Rests after work that took so long, and says whether the server is to stop.
    async fn rests(&mut self, took: Duration) -> bool {
        let factor = if self.start.elapsed() > self.every { REST_BEHIND } else { REST };
        stopped_within((took * factor).min(LONGEST_REST), self.stop).await
    }

    /// Leaves something out that fails by itself. Fails where too much of it does.
    async fn set_aside(&mut self, item: String, why: Error) -> Result<(), Error> {
        tracing::warn!(job = self.job.name, %why, "a part of a sweep fails and is left out for a while");
        tracing::debug!(job = self.job.name, item, "this is the part that is left out");
        self.store.set_aside(self.job.name, item.clone(), &why).await?;
        self.aside.insert(item, false);
        self.in_a_row += 1;
        if self.in_a_row < MOST_IN_A_ROW { Ok(()) } else { Err(why) }
    }

    /// What was set aside and was done now is left out no more.
    async fn take_back(&mut self, items: Vec<String>) -> Result<(), Error> {
        let items: Vec<String> = items.into_iter().filter(|item| self.aside.remove(item).is_some()).collect();
        if items.is_empty() { Ok(()) } else { self.store.take_back(self.job.name, items).await }
    }

    fn is_left_out(&self, item: &str) -> bool {
        self.aside.get(item).is_some_and(|due| !due)
    }

    /// Why the pass ended early; `None` if it was made.
    async fn pages(&mut self, table: Table) -> Result<Option<Pass>, Error> {
        let end = self.store.reader_for(Lane::Background).await?.pages(table).await?;
        let mut from = self.begun.place.as_ref().and_then(|place| place.parse().ok()).unwrap_or(0);
        let mut portion = Portion::new(PAGES_AT_ONCE);
        while from < end {
            // Up to the next page that is left out.
            let pages = (from..from + portion.size()).take_while(|page| !self.is_left_out(&page.to_string())).count();
            if pages == 0 {
                from += 1;
                continue;
            }
            let next = from + pages as i64;
            match self.bite(Bite::Pages { table, from, pages: pages as i64 }, next.to_string()).await? {
                Step::Done(bitten) if bitten.more.contains(&from.to_string()) => {}
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

    async fn used_tokens(&mut self) -> Result<Option<Pass>, Error> {
        for slot in 0..USED_TOKEN_SLOTS {
            match self.bite(Bite::UsedTokens { slot }, slot.to_string()).await? {
                Step::Done(_) => {}
                Step::Failed(why) => return Err(why),
                Step::Early(early) => return Ok(Some(early)),
            }
        }
        Ok(None)
    }

    async fn convos(&mut self) -> Result<Option<Pass>, Error> {
        let mut after = self.begun.place.take().unwrap_or_default();
        let (mut looking, mut deleting) = (Portion::new(CONVOS_AT_ONCE), Portion::new(ENTRIES_AT_ONCE));
        loop {
            let start = Instant::now();
            let reader = self.store.reader_for(Lane::Background).await?;
            let (cutoff, size) = (self.begun.cutoff, looking.size());
            let looked = match (&self.job.work, self.other_cutoff) {
                (Work::Abandoned, Some(ended_before)) => reader.convos_due(&after, cutoff, size, ended_before).await,
                (_, unread_before) => reader.logs_due(&after, cutoff, size, unread_before).await,
            };
            drop(reader);
            if self.rests(start.elapsed()).await {
                return Ok(Some(Pass::Stopped));
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
            let due = due.into_iter().filter(|convo| !self.is_left_out(convo)).collect();
            if let Some(early) = self.delete(due, &after, &mut deleting).await? {
                return Ok(Some(early));
            }
            match last {
                Some(last) => after = last,
                None => return Ok(None),
            }
        }
    }

    /// Deletes what is old of these conversations, a part of each in turn, until nothing is left of it.
    async fn delete(
        &mut self,
        mut due: VecDeque<String>,
        after: &str,
        portion: &mut Portion,
    ) -> Result<Option<Pass>, Error> {
        while !due.is_empty() {
            let at_once = if let Work::Abandoned = self.job.work { 1 } else { LOGS_AT_ONCE };
            let convos = (due.len() as i64).min(portion.size()).min(at_once);
            let part: Vec<String> = due.iter().take(convos as usize).cloned().collect();
            let bite = match (&self.job.work, self.other_cutoff) {
                (Work::Abandoned, Some(ended_before)) => {
                    Bite::Convo { convo: part.concat(), rows: portion.size(), ended_before }
                }
                (_, unread_before) => {
                    Bite::Logs { convos: part.clone(), entries: portion.size() / convos, unread_before }
                }
            };
            match self.bite(bite, after.to_owned()).await? {
                Step::Done(bitten) => {
                    portion.grow();
                    due.drain(..part.len());
                    let (more, done): (Vec<_>, Vec<_>) =
                        part.into_iter().partition(|convo| bitten.more.contains(convo));
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

/// Waits, and says whether the server is to stop, which ends the wait. So does the end of whoever would say it.
async fn stopped_within(time: Duration, stop: &mut watch::Receiver<bool>) -> bool {
    tokio::time::timeout(time, stop.wait_for(|stop| *stop)).await.is_ok()
}
