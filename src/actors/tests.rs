//! The registry and its actors on a real database, with commands made for the purpose.

use std::sync::Arc;
use std::time::Duration;

use catbird_testkit::cluster::{TestDatabase, database};
use futures_util::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use super::{ActorMetrics, Limits, Registry};
use crate::batching::Pending;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::metrics::{Page, Registry as MetricsRegistry};
use crate::store::epochs::{self, Swap};
use crate::store::{Abort, Command, Exclusive, LockMode, Store, StoreConfig, StoreMetrics};

const LIMITS: Limits = Limits { actors: 4, mailbox: 8, idle: Duration::from_secs(3_600) };

struct Setting {
    registry: Registry,
    store: Store,
    metrics: ActorMetrics,
    page: Page,
    _database: TestDatabase,
}

async fn setting(limits: Limits, convos: usize) -> Setting {
    let database = database().await;
    let client = database.connect().await;
    for n in 0..convos {
        let insert = format!(
            "insert into conversations (id, group_id, creator_did, cipher_suite, initial_epoch, current_epoch)
             values ('c{n}', 'g{n}', 'did:plc:a', 's', 0, 0)"
        );
        client.batch_execute(&insert).await.unwrap();
    }
    let mut metrics = MetricsRegistry::default();
    let (store_metrics, actor_metrics) = (StoreMetrics::register(&mut metrics), ActorMetrics::register(&mut metrics));
    let config = StoreConfig { database: database.config.clone(), max_connections: 10, pooler: false };
    let store = Store::new(config, store_metrics).unwrap();
    let registry = Registry::new(store.clone(), actor_metrics.clone(), limits, Handle::current());
    Setting { registry, store, metrics: actor_metrics, page: Page::new(metrics), _database: database }
}

impl Registry {
    /// Sends a command and waits for its reply.
    async fn run<C: Command>(&self, command: C) -> Result<C::Output, Error> {
        let (pending, reply) = Pending::new(Arc::new(command));
        self.send(Box::new(pending));
        reply.await.unwrap_or_else(|_| Err(Code::InternalServerError.because("the actor failed")))
    }
}

fn convo(n: usize) -> ConvoId {
    format!("c{n}").parse().unwrap()
}

/// Holds the position and says where it is.
struct Stay(ConvoId);

impl Command for Stay {
    const NAME: &'static str = "hold";
    type Output = i64;

    fn convo(&self) -> &ConvoId {
        &self.0
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<i64, Abort> {
        Ok(epochs::lock_row(x).await?.seq)
    }
}

/// Moves the position by one application message, without the message: these tests are not about the log.
struct Step(ConvoId);

impl Command for Step {
    const NAME: &'static str = "step";
    type Output = i64;

    fn convo(&self) -> &ConvoId {
        &self.0
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<i64, Abort> {
        match epochs::extend(x).await? {
            Swap::To(at) => Ok(at.seq),
            Swap::Lost(at) => Err(Abort::Moved(at)),
        }
    }
}

struct Panic(ConvoId);

impl Command for Panic {
    const NAME: &'static str = "panic";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.0
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, _: &mut Exclusive<'_>) -> Result<(), Abort> {
        panic!("a defect")
    }
}

/// Says that it runs, and goes on when it may.
struct Wait {
    convo: ConvoId,
    running: Arc<Notify>,
    go: Arc<Semaphore>,
}

impl Command for Wait {
    const NAME: &'static str = "wait";
    type Output = ();

    fn convo(&self) -> &ConvoId {
        &self.convo
    }

    fn caller(&self) -> &Did {
        Did::nobody()
    }

    async fn execute(&self, _: &mut Exclusive<'_>) -> Result<(), Abort> {
        self.running.notify_one();
        let _ = self.go.acquire().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_first_requests_start_one_actor() {
    let s = setting(Limits { mailbox: 64, ..LIMITS }, 1).await;
    let steps = join_all((0..50).map(|_| s.registry.run(Step(convo(0))))).await;
    let mut seqs: Vec<i64> = steps.into_iter().map(Result::unwrap).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=50).collect::<Vec<_>>());
    assert_eq!((s.registry.active(), s.metrics.active()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_follows_what_another_replica_wrote() {
    let s = setting(LIMITS, 1).await;
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap(), 1);
    for seq in 2..=5 {
        let other = s.store.run(Arc::new(Step(convo(0))), LockMode::Lock).await;
        assert_eq!(other.ok().unwrap().output, seq);
    }
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap(), 6);
    assert_eq!(s.registry.run(Stay(convo(0))).await.unwrap(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actor_that_failed_is_started_again_by_the_next_request() {
    let s = setting(LIMITS, 1).await;
    s.registry.run(Step(convo(0))).await.unwrap();
    assert_eq!(s.registry.run(Panic(convo(0))).await.unwrap_err().code, Code::InternalServerError);
    // The failed actor may still be on its way out; whatever it had queued is answered, and then a new one takes over.
    while s.registry.active() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap(), 2);
    let text = s.page.render().unwrap();
    assert!(text.contains("actor_restarts_total{actor_type=\"conversation_actor\"} 1"), "{text}");
    assert!(text.contains("actor_spawns_total{actor_type=\"conversation_actor\"} 2"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_actor_stops_and_a_new_one_knows_as_much() {
    let s = setting(Limits { idle: Duration::from_millis(1), ..LIMITS }, 1).await;
    s.registry.run(Step(convo(0))).await.unwrap();
    while s.registry.active() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_refuses_and_the_others_still_work() {
    let s = setting(LIMITS, 2).await;
    let (running, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let registry = s.registry.clone();
    let wait = Wait { convo: convo(0), running: running.clone(), go: go.clone() };
    let waiting = tokio::spawn(async move { registry.run(wait).await });
    running.notified().await;
    let mut queued: Vec<_> = (0..LIMITS.mailbox).map(|_| Box::pin(s.registry.run(Step(convo(0))))).collect();
    for one in &mut queued {
        assert!(futures_util::poll!(one).is_pending());
    }
    let refused = s.registry.run(Step(convo(0))).await.unwrap_err();
    assert_eq!(refused.code, Code::Overloaded);
    assert!(refused.details.retry_after_ms.is_some());
    assert_eq!(s.registry.run(Step(convo(1))).await.unwrap(), 1, "another conversation is not affected");
    go.add_permits(1);
    waiting.await.unwrap().unwrap();
    assert!(join_all(queued).await.into_iter().all(|step| step.is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_actors_is_bounded_and_busy_ones_are_never_evicted() {
    let s = setting(LIMITS, 6).await;
    for n in 0..6 {
        s.registry.run(Step(convo(n))).await.unwrap();
        assert!(s.registry.active() <= LIMITS.actors);
    }
    let (running, go) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let mut busy = Vec::new();
    for n in 0..LIMITS.actors {
        let registry = s.registry.clone();
        let wait = Wait { convo: convo(n), running: running.clone(), go: go.clone() };
        busy.push(tokio::spawn(async move { registry.run(wait).await }));
        running.notified().await;
    }
    assert_eq!(s.registry.run(Step(convo(5))).await.unwrap_err().code, Code::Overloaded);
    go.add_permits(LIMITS.actors);
    assert!(join_all(busy).await.into_iter().all(|done| done.unwrap().is_ok()));
    assert_eq!(s.registry.run(Step(convo(5))).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_does_not_exist_keeps_no_actor() {
    let s = setting(LIMITS, 0).await;
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap_err().code, Code::ConvoNotFound);
    while s.registry.active() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_finishes_what_is_queued_and_takes_nothing_more() {
    let s = setting(LIMITS, 1).await;
    let mut queued: Vec<_> = (0..5).map(|_| Box::pin(s.registry.run(Step(convo(0))))).collect();
    for one in &mut queued {
        assert!(futures_util::poll!(one).is_pending());
    }
    s.registry.shut_down().await;
    assert!(join_all(queued).await.into_iter().all(|step| step.is_ok()));
    assert_eq!(s.registry.run(Step(convo(0))).await.unwrap_err().code, Code::Overloaded);
    assert_eq!((s.registry.active(), s.metrics.active()), (0, 0));
}
