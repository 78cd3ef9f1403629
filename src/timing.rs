//! Time of each stage of a request, for the metrics and for `Server-Timing`, and the deadline of its answer
//! ([`BUDGET`]).
//!
//! The times travel with the request as a task-local, so no function has a parameter for them. `xrpc` opens the scope;
//! code that hands a request to another task takes [`Timings::current`] along and runs the work in [`Timings::scope`];
//! [`measure`] marks the stages. Stages may be nested, and time counts for the innermost only, so the stages never add
//! up to more than the request took. Work for no request is not measured; work that its caller has stopped waiting for
//! counts up to that point.
//!
//! The recording of a request's spans ([`crate::trace`]) travels with its times.

mod metrics;

use std::array;
use std::fmt::Write;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::trace::{OpenSpan, Part, Recording};

pub use metrics::RequestMetrics;

/// Maximum time until a request is answered, without the time that its client takes to send it. Proxies such as an AT
/// Protocol PDS disconnect after 10 s, and the client would then not learn whether to retry.
pub const BUDGET: Duration = Duration::from_millis(8_500);

/// Lowest rate at which a client may send a body or take a reply, in bytes per second: a quarter of a megabit per second.
pub const MIN_RATE: u64 = 32 * 1024;

/// Returns the time that `bytes` take at [`MIN_RATE`].
pub fn time_for(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / MIN_RATE)
}

tokio::task_local! {
    static CURRENT: Timings;
}

/// Stage of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Verification of the token, including the fetch of the issuer's DID document.
    Auth,
    /// Reading and decoding of the body, or decoding of the query string.
    Parse,
    /// Waiting for the bytes of an upload, which its method takes piece by piece.
    Upload,
    /// Use of the token.
    Spend,
    /// Waiting behind other requests for the same conversation, in a queue or a mailbox, and between tasks; behind the
    /// caller's own requests; and between two attempts.
    Queue,
    /// Waiting for a connection to PostgreSQL.
    Connection,
    /// BEGIN and the conversation's lock.
    Lock,
    /// Statements and rollback of a transaction, without its COMMIT.
    Transaction,
    /// COMMIT, until its outcome is known. A batch commits in its only flush, so there it is part of the transaction.
    Commit,
    /// Read statements outside a transaction.
    Query,
    /// Encoding of the reply's JSON.
    Encode,
}

impl Stage {
    /// All stages, roughly in the order of a request.
    pub const ALL: [Stage; 11] = [
        Stage::Auth,
        Stage::Parse,
        Stage::Upload,
        Stage::Spend,
        Stage::Queue,
        Stage::Connection,
        Stage::Lock,
        Stage::Transaction,
        Stage::Commit,
        Stage::Query,
        Stage::Encode,
    ];

    /// Returns true if [`measure`] opens a span for this stage. Waits in queues and transactions open their own where they
    /// begin, a lock or a query is a statement, and an upload would have a span for each of its pieces.
    fn has_span(self) -> bool {
        !matches!(self, Stage::Upload | Stage::Queue | Stage::Lock | Stage::Transaction | Stage::Query)
    }

    /// Returns true if PostgreSQL works in this stage, for this request.
    fn is_database(self) -> bool {
        matches!(self, Stage::Transaction | Stage::Commit | Stage::Query)
    }

    /// Name in metrics and headers.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Auth => "auth",
            Stage::Parse => "parse",
            Stage::Upload => "upload",
            Stage::Spend => "spend",
            Stage::Queue => "queue",
            Stage::Connection => "connection",
            Stage::Lock => "lock",
            Stage::Transaction => "transaction",
            Stage::Commit => "commit",
            Stage::Query => "query",
            Stage::Encode => "encode",
        }
    }
}

/// Time of each stage of one request so far. Cheap to clone; clones count together.
#[derive(Clone, Default)]
pub struct Timings(Arc<Inner>);

/// Time of each stage at some moment, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTimes([u64; Stage::ALL.len()]);

type End = Box<dyn FnOnce(Duration) + Send + Sync>;

#[derive(Default)]
struct Inner {
    nanos: [AtomicU64; Stage::ALL.len()],
    /// Part of PostgreSQL's time that was shared with other requests.
    shared: AtomicU64,
    end: OnceLock<End>,
    /// Deadline of the answer, if a client waits for one.
    due: Mutex<Option<Due>>,
    /// Spans of the request, if there is a collector for them.
    recording: Option<Recording>,
}

/// Time of an answer.
#[derive(Debug, Clone, Copy)]
enum Due {
    At(Instant),
    /// This long after the client has sent what the request waits for.
    After(Duration),
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(end) = self.end.take() else { return };
        let database = Stage::ALL.into_iter().filter(|stage| stage.is_database());
        let nanos: u64 = database.map(|stage| self.nanos[stage as usize].load(Ordering::Relaxed)).sum();
        end(Duration::from_nanos(nanos.saturating_sub(self.shared.load(Ordering::Relaxed))));
    }
}

impl Timings {
    /// Creates the timings of a request that has just arrived.
    pub fn of_request(recording: Option<Recording>) -> Self {
        let timings = Self::recorded(recording);
        *timings.due() = Some(Due::At(Instant::now() + BUDGET));
        timings
    }

    /// Creates the timings of a batch, in which a command of the request with these timings is.
    pub fn of_batch(&self) -> Self {
        Self::recorded(self.0.recording.as_ref().map(|_| Recording::of_batch()))
    }

    fn recorded(recording: Option<Recording>) -> Self {
        let mut inner = Inner::default();
        inner.recording = recording;
        Self(Arc::new(inner))
    }

    /// Returns the timings of this task's request, to take along to another task. Without a request it returns new ones
    /// that are never read.
    pub fn current() -> Self {
        Self::find().unwrap_or_default()
    }

    fn find() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// Returns the deadline of this task's request. `None` without a request or deadline.
    pub fn deadline() -> Option<Instant> {
        Self::find()?.current_deadline()
    }

    fn current_deadline(&self) -> Option<Instant> {
        self.due().map(|due| match due {
            Due::At(until) => until,
            Due::After(left) => Instant::now() + left,
        })
    }

    fn due(&self) -> MutexGuard<'_, Option<Due>> {
        // No code panics while it holds this lock.
        self.0.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs work for the request of these timings.
    pub fn scope<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        CURRENT.scope(self.clone(), work)
    }

    /// Opens a span of this task's request, which ends when the value is dropped. `None` if none is recorded.
    pub fn span(part: Part) -> Option<OpenSpan> {
        CURRENT.try_with(|timings| timings.open(part)).ok().flatten()
    }

    /// Opens a span of the request.
    pub fn open(&self, part: Part) -> Option<OpenSpan> {
        self.0.recording.as_ref()?.open(part)
    }

    /// Notes the answer to the request in its recording: the HTTP status and the name of the error.
    pub fn answered(&self, status: u16, error: Option<&'static str>) {
        if let Some(recording) = &self.0.recording {
            recording.answered(status, error);
        }
    }

    /// Adds the time and the spans of work that was shared with other requests, without the part before this one joined.
    pub fn add(&self, shared: &Timings, missed: &StageTimes, joined: Instant) {
        if let (Some(recording), Some(batch)) = (&self.0.recording, &shared.0.recording) {
            recording.take_over(batch, joined);
        }
        for (stage, took) in shared.taken() {
            let took = took.saturating_sub(Duration::from_nanos(missed.0[stage as usize]));
            self.count(stage, took);
            if stage.is_database() {
                self.0.shared.fetch_add(took.as_nanos() as u64, Ordering::Relaxed);
            }
        }
    }

    /// Registers a callback for the end of all work on the request, including tasks that hold these timings. It
    /// receives the time that PostgreSQL worked for this request alone. Only the first callback counts.
    pub fn at_end(&self, end: impl FnOnce(Duration) + Send + Sync + 'static) {
        let _ = self.0.end.set(Box::new(end));
    }

    /// Returns the times until now, to subtract them later.
    pub fn so_far(&self) -> StageTimes {
        StageTimes(array::from_fn(|n| self.0.nanos[n].load(Ordering::Relaxed)))
    }

    /// Returns the stages of the request and the time of each.
    pub fn taken(&self) -> impl Iterator<Item = (Stage, Duration)> {
        let nanos: [u64; Stage::ALL.len()] = array::from_fn(|n| self.0.nanos[n].load(Ordering::Relaxed));
        let stages = Stage::ALL.into_iter().zip(nanos).filter(|(_, nanos)| *nanos > 0);
        stages.map(|(stage, nanos)| (stage, Duration::from_nanos(nanos)))
    }

    /// Returns the value of `Server-Timing` (<https://www.w3.org/TR/server-timing/>), in milliseconds with three
    /// decimals, rounded down so that the stages do not add up to more than `total`.
    pub fn header(&self, total: Duration) -> String {
        let mut header = String::with_capacity(256);
        for (name, took) in self.taken().map(|(stage, took)| (stage.name(), took)).chain([("total", total)]) {
            let micros = took.as_micros() as u64;
            let comma = if header.is_empty() { "" } else { ", " };
            let _ = write!(header, "{comma}{name};dur={}.{:03}", micros / 1_000, micros % 1_000);
        }
        header
    }

    fn count(&self, stage: Stage, took: Duration) {
        // A stage that took no measurable time is still listed.
        let nanos = took.as_nanos().clamp(1, u64::MAX.into()) as u64;
        self.0.nanos[stage as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    fn sum(&self) -> Duration {
        Duration::from_nanos(self.0.nanos.iter().map(|nanos| nanos.load(Ordering::Relaxed)).sum())
    }
}

/// Waits for more of the request from its client; this time does not count towards the deadline.
pub async fn wait_for_client<F: Future>(waiting: F) -> F::Output {
    let _paused = DeadlinePause::begin();
    waiting.await
}

/// Stops the deadline of this task's request. When it is dropped, as much time is left as there was.
pub struct DeadlinePause(Option<Timings>);

impl DeadlinePause {
    /// Begins a pause. Within another one it has no effect.
    pub fn begin() -> Self {
        let timings = Timings::find().filter(|timings| {
            let mut due = timings.due();
            let Some(Due::At(until)) = *due else { return false };
            *due = Some(Due::After(until.saturating_duration_since(Instant::now())));
            true
        });
        Self(timings)
    }
}

impl Drop for DeadlinePause {
    fn drop(&mut self) {
        let Some(timings) = &self.0 else { return };
        let mut due = timings.due();
        if let Some(Due::After(left)) = *due {
            *due = Some(Due::At(Instant::now() + left));
        }
    }
}

/// The deadline of the request passed before the work was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineExceeded;

/// Waits for work for at most this long, and until the deadline of this task's request.
pub async fn within<F: Future>(longest: Duration, work: F) -> Result<F::Output, DeadlineExceeded> {
    tokio::time::timeout(longest, within_deadline(Duration::ZERO, work)).await.unwrap_or(Err(DeadlineExceeded))
}

/// Waits for work until this long after the deadline of this task's request.
pub async fn within_deadline<F: Future>(grace: Duration, work: F) -> Result<F::Output, DeadlineExceeded> {
    let mut work = pin!(work);
    loop {
        let Some(until) = Timings::deadline() else { return Ok(work.await) };
        match tokio::time::timeout_at((until + grace).into(), &mut work).await {
            Ok(done) => return Ok(done),
            // The deadline has moved because the client took time.
            Err(_) if Timings::deadline() > Some(until) => {}
            Err(_) => return Err(DeadlineExceeded),
        }
    }
}

/// Runs work as a stage of this task's request, if there is one. Time of nested stages does not count for this one.
pub async fn measure<F: Future>(stage: Stage, work: F) -> F::Output {
    let Some(timings) = Timings::find() else { return work.await };
    let others = timings.sum();
    let _span = if stage.has_span() { timings.open(Part::Stage(stage.name())) } else { None };
    let _counted = StageTimer { timings, stage, start: Instant::now(), others };
    work.await
}

/// A stage that is counted when this is dropped, because it is done or no longer awaited.
struct StageTimer {
    timings: Timings,
    stage: Stage,
    start: Instant,
    /// Time of the other stages at the start.
    others: Duration,
}

impl Drop for StageTimer {
    fn drop(&mut self) {
        let others = self.timings.sum().saturating_sub(self.others);
        self.timings.count(self.stage, self.start.elapsed().saturating_sub(others));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(timings: &Timings) -> Vec<(&'static str, u64)> {
        timings.taken().map(|(stage, took)| (stage.name(), took.as_nanos() as u64)).collect()
    }

    #[test]
    fn each_stage_has_a_place_and_a_name_of_its_own() {
        let timings = Timings::default();
        for (place, stage) in Stage::ALL.into_iter().enumerate() {
            timings.count(stage, Duration::from_nanos(place as u64 + 1));
        }
        let names: std::collections::BTreeSet<_> = taken(&timings).into_iter().collect();
        assert_eq!(names.len(), Stage::ALL.len());
        for (place, (stage, took)) in timings.taken().enumerate() {
            assert_eq!((stage as usize, took.as_nanos()), (place, place as u128 + 1));
        }
    }

    #[tokio::test]
    async fn time_in_a_stage_inside_another_counts_once() {
        let timings = Timings::default();
        let start = Instant::now();
        let inner = async {
            Timings::current().count(Stage::Connection, Duration::from_secs(60));
            measure(Stage::Lock, async { Timings::current().count(Stage::Query, Duration::from_secs(60)) }).await;
        };
        timings.scope(measure(Stage::Queue, inner)).await;
        let most = start.elapsed();
        for (stage, took) in timings.taken() {
            match stage {
                Stage::Connection | Stage::Query => assert_eq!(took, Duration::from_secs(60)),
                // The two stages around a simulated minute get less than nothing.
                Stage::Queue | Stage::Lock => assert!(took <= most, "{stage:?} {took:?}"),
                other => panic!("{other:?} was not measured"),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_late_after_its_time_without_what_its_client_took() {
        let timings = Timings::of_request(None);
        let begun = tokio::time::Instant::now();
        assert_eq!(within(BUDGET, std::future::ready(7)).await, Ok(7));
        let other = timings.scope(within(Duration::from_secs(2), std::future::pending::<()>()));
        assert_eq!((other.await, begun.elapsed()), (Err(DeadlineExceeded), Duration::from_secs(2)));
        let until = timings.current_deadline().unwrap();
        // The real clock is not paused, so it takes a moment.
        timings.scope(wait_for_client(async { std::thread::sleep(Duration::from_millis(20)) })).await;
        assert!(timings.current_deadline().unwrap() >= until + Duration::from_millis(20));
        assert_eq!(
            timings.scope(within_deadline(Duration::ZERO, std::future::pending::<()>())).await,
            Err(DeadlineExceeded)
        );
        let nobody = Timings::default().scope(within_deadline(Duration::ZERO, tokio::time::sleep(10 * BUDGET)));
        assert_eq!(nobody.await, Ok(()), "it has no deadline");
    }

    #[tokio::test]
    async fn one_wait_for_the_client_may_be_longer_than_the_time_of_the_server() {
        let left = Duration::from_millis(20);
        let timings = Timings::default();
        *timings.due() = Some(Due::At(Instant::now() + left));
        let slow = wait_for_client(tokio::time::sleep(5 * left));
        assert_eq!(timings.scope(within_deadline(Duration::ZERO, slow)).await, Ok(()));
        let rest = timings.current_deadline().unwrap().saturating_duration_since(Instant::now());
        assert!(rest <= left, "{rest:?}");
        let late = timings.scope(within_deadline(Duration::ZERO, std::future::pending::<()>()));
        assert_eq!(late.await, Err(DeadlineExceeded));
    }

    #[tokio::test]
    async fn the_deadline_stands_still_until_the_outermost_pause_ends() {
        let timings = Timings::of_request(None);
        let nested = async {
            let pause = DeadlinePause::begin();
            wait_for_client(async {}).await;
            assert!(matches!(*timings.due(), Some(Due::After(left)) if left <= BUDGET));
            drop(pause);
            assert!(matches!(*timings.due(), Some(Due::At(_))));
        };
        timings.scope(nested).await;
        // Also if the wait is given up.
        let given_up = wait_for_client(std::future::pending::<()>());
        assert!(timings.scope(tokio::time::timeout(Duration::from_millis(1), given_up)).await.is_err());
        assert!(matches!(*timings.due(), Some(Due::At(_))));
        drop(DeadlinePause::begin());
    }

    #[tokio::test]
    async fn the_end_callback_gets_postgresqls_time_for_this_request_alone() {
        let (timings, shared) = (Timings::default(), Timings::default());
        let told = Arc::new(OnceLock::new());
        let tell = told.clone();
        timings.at_end(move |took| tell.set(took).unwrap());
        for (stage, ms) in
            [(Stage::Query, 1), (Stage::Transaction, 2), (Stage::Commit, 4), (Stage::Lock, 8), (Stage::Queue, 16)]
        {
            timings.count(stage, Duration::from_millis(ms));
            shared.count(stage, Duration::from_millis(100 * ms));
        }
        timings.add(&shared, &StageTimes::default(), Instant::now());
        let at_work = timings.clone();
        drop(timings);
        assert_eq!(told.get(), None, "work for it is still running");
        drop(at_work);
        assert_eq!(told.get(), Some(&Duration::from_millis(7)));
    }

    #[tokio::test]
    async fn work_that_is_no_longer_awaited_counts_up_to_that_point() {
        let timings = Timings::default();
        let working = timings.scope(measure(Stage::Query, std::future::pending::<()>()));
        let gone = tokio::time::timeout(Duration::from_millis(1), working).await;
        assert!(gone.is_err());
        assert_eq!(timings.taken().map(|(stage, _)| stage).collect::<Vec<_>>(), [Stage::Query]);
    }

    #[tokio::test]
    async fn another_task_works_for_the_request_only_in_its_scope() {
        let timings = Timings::default();
        let at_work = || measure(Stage::Commit, async {});
        timings.scope(async { tokio::spawn(at_work()).await.unwrap() }).await;
        assert_eq!(taken(&timings), []);
        timings.scope(async { tokio::spawn(Timings::current().scope(at_work())).await.unwrap() }).await;
        assert_eq!(timings.taken().map(|(stage, _)| stage).collect::<Vec<_>>(), [Stage::Commit]);
    }

    #[test]
    fn the_header_is_as_its_specification_has_it_and_never_rounds_up() {
        let (timings, shared) = (Timings::default(), Timings::default());
        timings.count(Stage::Auth, Duration::from_nanos(123_999));
        timings.count(Stage::Queue, Duration::from_nanos(1));
        shared.count(Stage::Commit, Duration::from_millis(1_002));
        timings.add(&shared, &StageTimes::default(), Instant::now());
        timings.add(&shared, &StageTimes::default(), Instant::now());
        let header = timings.header(Duration::from_micros(2_345_678));
        assert_eq!(header, "auth;dur=0.123, queue;dur=0.000, commit;dur=2004.000, total;dur=2345.678");
    }
}
