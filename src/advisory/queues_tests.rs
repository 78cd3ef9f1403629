//! The queues by themselves: order, fairness, bounds, and leases.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;

use super::*;
use crate::batching::Attempt;
use crate::error::{Code, Error};
use crate::metrics::Registry;
use crate::store::{LockMode, Store};

/// A command with a name.
struct Note {
    convo: ConvoId,
    name: &'static str,
    kind: Option<BatchKind>,
    since: Instant,
    refused: Arc<Mutex<Vec<&'static str>>>,
}

impl Queued for Note {
    fn name(&self) -> &'static str {
        self.name
    }

    fn convo(&self) -> &ConvoId {
        &self.convo
    }

    fn kind(&self) -> Option<BatchKind> {
        self.kind
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn bytes(&self) -> usize {
        0
    }

    fn refuse(self: Box<Self>, error: Error) {
        assert_eq!(error.code, Code::Overloaded);
        assert!(error.details.retry_after_ms.is_some());
        self.refused.lock().unwrap().push(self.name);
    }

    fn run(self: Box<Self>, _: Store, _: LockMode) -> Pin<Box<dyn Future<Output = Attempt> + Send>> {
        unreachable!("the queues run nothing")
    }
}

struct Setting {
    queues: Queues,
    refused: Arc<Mutex<Vec<&'static str>>>,
    /// The conversations that are leased.
    leases: Mutex<HashMap<ConvoId, Lease>>,
}

type Names = Vec<(String, Vec<&'static str>)>;

impl Setting {
    fn new() -> Self {
        let queues = Queues::new(QueueMetrics::register(&mut Registry::default()));
        Self { queues, refused: Arc::default(), leases: Mutex::default() }
    }

    fn note(&self, at: &str, name: &'static str, kind: Option<BatchKind>) -> Box<dyn Queued> {
        Box::new(Note { convo: convo(at), name, kind, since: Instant::now(), refused: self.refused.clone() })
    }

    fn push(&self, at: &str, name: &'static str, kind: Option<BatchKind>) {
        self.queues.push(self.note(at, name, kind));
    }

    /// The next batch that is ready for a worker: names by conversation. Its leases are kept.
    fn next(&self, worker: Worker) -> Option<Names> {
        let batch = self.queues.next(worker).now_or_never()?;
        Some(self.keep(batch))
    }

    fn keep(&self, batch: Batch) -> Names {
        let mut leases = self.leases.lock().unwrap();
        let keep = |(lease, commands): (Lease, Vec<Box<dyn Queued>>)| {
            let convo = lease.convo.clone();
            leases.insert(convo.clone(), lease);
            (convo.to_string(), names(&commands))
        };
        batch.into_iter().map(keep).collect()
    }

    fn messages(&self) -> Option<Names> {
        self.next(Worker::Batches(BatchKind::Messages))
    }

    fn commits(&self) -> Option<Names> {
        self.next(Worker::Batches(BatchKind::Commits))
    }

    fn waits(&self) -> Option<Names> {
        self.next(Worker::Waits)
    }

    /// Returns a lease.
    fn give_back(&self, at: &str, unfinished: Vec<Box<dyn Queued>>, found: Found) {
        let mut lease = self.leases.lock().unwrap().remove(&convo(at)).unwrap();
        (lease.unfinished, lease.found) = (unfinished, found);
    }
}

const MESSAGE: Option<BatchKind> = Some(BatchKind::Messages);
const COMMIT: Option<BatchKind> = Some(BatchKind::Commits);

fn names(commands: &[Box<dyn Queued>]) -> Vec<&'static str> {
    commands.iter().map(|command| command.name()).collect()
}

fn convo(name: &str) -> ConvoId {
    name.parse().unwrap()
}

fn taken(batch: &[(&str, &[&'static str])]) -> Option<Vec<(String, Vec<&'static str>)>> {
    Some(batch.iter().map(|(convo, names)| ((*convo).to_owned(), names.to_vec())).collect())
}

#[tokio::test]
async fn commands_that_arrived_meanwhile_are_batched_in_order() {
    let s = Setting::new();
    for name in ["1", "2", "3"] {
        s.push("a", name, MESSAGE);
    }
    s.push("b", "4", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["1", "2", "3"]), ("b", &["4"])]));
    s.push("a", "5", MESSAGE);
    assert_eq!(s.messages(), None, "a conversation is leased to one worker at a time");
    s.give_back("a", Vec::new(), Found::Free);
    assert_eq!(s.messages(), taken(&[("a", &["5"])]));
    s.give_back("a", Vec::new(), Found::Free);
    s.give_back("b", Vec::new(), Found::Free);
    assert!(s.queues.state().queues.is_empty() && s.queues.state().waiting == 0, "an empty queue is removed");
}

#[tokio::test]
async fn commands_of_the_kind_that_arrive_while_a_batch_waits_join_it() {
    let s = Setting::new();
    s.push("a", "1", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["1"])]));
    let arrivals = s.leases.lock().unwrap()[&convo("a")].arrivals(BatchKind::Messages);
    let more = |size| names(&arrivals(size, 0));
    assert!(more(1).is_empty());
    for (name, kind) in [("2", MESSAGE), ("3", MESSAGE), ("alone", None), ("4", MESSAGE)] {
        s.push("a", name, kind);
    }
    assert_eq!(more(MAX_BATCH - 1), ["2"], "a batch has its limit");
    assert_eq!(more(2), ["3"], "nothing overtakes a command that runs alone");
    assert!(more(3).is_empty());
    s.give_back("a", Vec::new(), Found::Waited);
    assert_eq!((s.messages(), s.waits()), (None, taken(&[("a", &["alone"])])));
    s.give_back("a", Vec::new(), Found::Free);
    assert_eq!(s.queues.state().waiting, 1);
}

#[tokio::test]
async fn a_message_never_overtakes_a_command_that_runs_alone() {
    let s = Setting::new();
    s.push("a", "message", MESSAGE);
    s.push("a", "alone", None);
    s.push("a", "later message", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["message"])]));
    s.give_back("a", Vec::new(), Found::Free);
    assert_eq!(s.messages(), None);
    assert_eq!(s.waits(), taken(&[("a", &["alone"])]));
    assert_eq!(s.messages(), None);
    s.give_back("a", Vec::new(), Found::Free);
    assert_eq!(s.messages(), taken(&[("a", &["later message"])]));
}

#[tokio::test]
async fn messages_and_commits_keep_their_order_and_have_batches_of_their_own() {
    let s = Setting::new();
    for (at, name) in [("a", "1"), ("a", "2"), ("b", "3")] {
        s.push(at, name, COMMIT);
    }
    s.push("b", "message", MESSAGE);
    assert_eq!(s.commits(), taken(&[("a", &["1", "2"]), ("b", &["3"])]));
    assert_eq!((s.commits(), s.messages()), (None, None));
    s.give_back("a", vec![s.note("a", "2", COMMIT)], Found::Free);
    s.give_back("b", Vec::new(), Found::Free);
    assert_eq!((s.commits(), s.messages()), (taken(&[("a", &["2"])]), taken(&[("b", &["message"])])));
}

#[tokio::test]
async fn commands_that_a_batch_could_not_run_come_first_and_alone() {
    let s = Setting::new();
    s.push("a", "1", MESSAGE);
    s.push("a", "2", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["1", "2"])]));
    s.push("a", "3", MESSAGE);
    s.give_back("a", vec![s.note("a", "1", None), s.note("a", "2", None)], Found::Free);
    for name in ["1", "2"] {
        assert_eq!((s.messages(), s.waits()), (None, taken(&[("a", &[name])])));
        s.give_back("a", Vec::new(), Found::Free);
    }
    assert_eq!(s.messages(), taken(&[("a", &["3"])]));
}

#[tokio::test]
async fn a_hot_conversation_gets_its_share_of_a_batch_and_no_more() {
    let s = Setting::new();
    for _ in 0..MAX_BATCH * 2 {
        s.push("hot", "hot", MESSAGE);
    }
    for cold in ["c1", "c2", "c3"] {
        s.push(cold, "cold", MESSAGE);
    }
    let batch = s.messages().unwrap();
    assert_eq!(batch.iter().map(|(_, names)| names.len()).collect::<Vec<_>>(), [MAX_BATCH / 4, 1, 1, 1]);
    let alone = Setting::new();
    for _ in 0..MAX_BATCH * 2 {
        alone.push("hot", "hot", MESSAGE);
    }
    assert_eq!(alone.messages().unwrap()[0].1.len(), MAX_BATCH, "all of it if no other conversation is ready");
}

#[tokio::test]
async fn a_full_queue_refuses_and_others_have_room() {
    let s = Setting::new();
    for _ in 0..MAX_QUEUE {
        s.push("a", "waits", MESSAGE);
    }
    s.push("a", "one too many", MESSAGE);
    assert_eq!(*s.refused.lock().unwrap(), ["one too many"]);
    s.push("b", "waits", MESSAGE);
    assert_eq!(s.refused.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_that_waits_is_woken() {
    let s = Setting::new();
    let queues = s.queues.clone();
    for (worker, at, kind) in [(Worker::Batches(BatchKind::Messages), "a", MESSAGE), (Worker::Waits, "b", None)] {
        let mut waiting = Box::pin(queues.next(worker));
        assert!((&mut waiting).now_or_never().is_none());
        s.push(at, "1", kind);
        assert_eq!(names(&waiting.await[0].1), ["1"]);
    }
}

#[tokio::test]
async fn a_contended_conversation_waits_by_itself_with_batches_of_its_own() {
    let s = Setting::new();
    s.push("a", "1", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["1"])]));
    s.give_back("a", vec![s.note("a", "1", MESSAGE)], Found::Taken);
    assert_eq!((s.waits(), s.messages()), (None, taken(&[("a", &["1"])])), "once may be chance");
    s.push("a", "2", MESSAGE);
    s.push("a", "alone", None);
    s.give_back("a", vec![s.note("a", "1", MESSAGE)], Found::Taken);
    s.push("b", "3", MESSAGE);
    assert_eq!((s.messages(), s.waits()), (taken(&[("b", &["3"])]), taken(&[("a", &["1", "2"])])));
    s.give_back("a", Vec::new(), Found::Waited);
    assert_eq!(s.waits(), taken(&[("a", &["alone"])]), "a command that is never batched still comes alone");
    s.give_back("a", Vec::new(), Found::Free);
    s.push("a", "4", MESSAGE);
    assert_eq!((s.messages(), s.waits()), (None, taken(&[("a", &["4"])])), "for a moment it stays contended");
    s.give_back("a", Vec::new(), Found::Free);
    for contention in s.queues.state().contended.values_mut() {
        contention.since -= CONTENDED_FOR;
    }
    s.push("a", "5", MESSAGE);
    assert_eq!(s.messages(), taken(&[("a", &["5"])]));
}

#[tokio::test]
async fn the_number_of_conversations_remembered_as_contended_is_bounded() {
    let s = Setting::new();
    for n in 0..=MAX_CONTENDED {
        s.queues.state().note(&convo(&format!("c{n}")), Found::Waited);
    }
    assert_eq!(s.queues.state().contended.len(), MAX_CONTENDED);
    assert!(!s.queues.state().is_contended(&convo(&format!("c{MAX_CONTENDED}"))));
    for contention in s.queues.state().contended.values_mut() {
        contention.since -= CONTENDED_FOR;
    }
    s.queues.state().note(&convo("new"), Found::Waited);
    assert_eq!(s.queues.state().contended.len(), 1, "those that are over make room");
}
