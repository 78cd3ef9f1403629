//! The queues by themselves: order, fairness, bounds, and what comes back.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;

use super::*;
use crate::metrics::Registry;

/// A request that can be told from others.
struct Note {
    name: &'static str,
    company: Company,
    since: Instant,
    refused: Arc<Mutex<Vec<&'static str>>>,
}

impl Job for Note {
    fn company(&self) -> Company {
        self.company
    }

    fn since(&self) -> Instant {
        self.since
    }

    fn refuse(self, error: Error) {
        assert_eq!(error.code, Code::Overloaded);
        assert!(error.details.retry_after_ms.is_some());
        self.refused.lock().unwrap().push(self.name);
    }
}

struct Setting {
    queues: Queues<Note>,
    refused: Arc<Mutex<Vec<&'static str>>>,
}

impl Setting {
    fn new() -> Self {
        Self { queues: Queues::new(QueueMetrics::register(&mut Registry::default())), refused: Arc::default() }
    }

    fn note(&self, name: &'static str, shares: bool) -> Note {
        let company = if shares { Company::Messages } else { Company::Nobody };
        Note { name, company, since: Instant::now(), refused: self.refused.clone() }
    }

    fn push(&self, at: &str, name: &'static str, shares: bool) {
        self.queues.push(&convo(at), self.note(name, shares));
    }

    /// The next batch that is there already: names by conversation.
    fn batch(&self) -> Option<Vec<(String, Vec<&'static str>)>> {
        let batch = self.queues.next(Company::Messages).now_or_never()?;
        Some(
            batch
                .into_iter()
                .map(|(convo, notes)| (convo.to_string(), notes.iter().map(|n| n.name).collect()))
                .collect(),
        )
    }

    fn alone(&self) -> Option<&'static str> {
        let next = self.queues.next(Company::Nobody).now_or_never()?;
        next.first().and_then(|(_, notes)| notes.first()).map(|note| note.name)
    }
}

fn convo(name: &str) -> ConvoId {
    name.parse().unwrap()
}

fn taken(batch: &[(&str, &[&'static str])]) -> Option<Vec<(String, Vec<&'static str>)>> {
    Some(batch.iter().map(|(convo, names)| ((*convo).to_owned(), names.to_vec())).collect())
}

#[tokio::test]
async fn what_arrived_meanwhile_goes_together_and_in_order() {
    let s = Setting::new();
    for name in ["1", "2", "3"] {
        s.push("a", name, true);
    }
    s.push("b", "4", true);
    assert_eq!(s.batch(), taken(&[("a", &["1", "2", "3"]), ("b", &["4"])]));
    s.push("a", "5", true);
    assert_eq!(s.batch(), None, "a conversation is in one worker's hands at a time");
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    assert_eq!(s.batch(), taken(&[("a", &["5"])]));
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    s.queues.give_back(&convo("b"), Vec::new(), Found::Free);
    assert!(s.queues.state().queues.is_empty() && s.queues.state().waiting == 0, "an empty queue is forgotten");
}

#[tokio::test]
async fn what_arrives_while_a_batch_waits_may_come_along_as_far_as_it_keeps_company() {
    let s = Setting::new();
    s.push("a", "1", true);
    assert_eq!(s.batch(), taken(&[("a", &["1"])]));
    let more = |requests| {
        let notes = s.queues.more(&convo("a"), Company::Messages, requests, 0);
        notes.iter().map(|note| note.name).collect::<Vec<_>>()
    };
    assert!(more(1).is_empty());
    for (name, shares) in [("2", true), ("3", true), ("commit", false), ("4", true)] {
        s.push("a", name, shares);
    }
    assert_eq!(more(BATCH - 1), ["2"], "a batch has its limit");
    assert_eq!(more(2), ["3"], "nothing overtakes what is done alone");
    assert!(more(3).is_empty());
    s.queues.give_back(&convo("a"), Vec::new(), Found::Waited);
    assert_eq!((s.batch(), s.alone()), (None, Some("commit")));
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    assert_eq!(s.queues.state().waiting, 1);
}

#[tokio::test]
async fn a_message_never_overtakes_what_is_done_alone() {
    let s = Setting::new();
    s.push("a", "message", true);
    s.push("a", "commit", false);
    s.push("a", "later message", true);
    assert_eq!(s.batch(), taken(&[("a", &["message"])]));
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    assert_eq!(s.batch(), None);
    assert_eq!(s.alone(), Some("commit"));
    assert_eq!(s.batch(), None);
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    assert_eq!(s.batch(), taken(&[("a", &["later message"])]));
}

#[tokio::test]
async fn messages_and_commits_keep_their_order_and_their_own_company() {
    let s = Setting::new();
    let commit = |name| Note { name, company: Company::Commits, since: Instant::now(), refused: s.refused.clone() };
    for (at, name) in [("a", "1"), ("a", "2"), ("b", "3")] {
        s.queues.push(&convo(at), commit(name));
    }
    s.push("b", "message", true);
    let commits = || {
        let batch = s.queues.next(Company::Commits).now_or_never()?;
        Some(batch.iter().map(|(_, notes)| notes.iter().map(|note| note.name).collect()).collect::<Vec<Vec<_>>>())
    };
    assert_eq!(commits(), Some(vec![vec!["1", "2"], vec!["3"]]));
    assert_eq!((commits(), s.batch()), (None, None));
    s.queues.give_back(&convo("a"), vec![commit("2")], Found::Free);
    s.queues.give_back(&convo("b"), Vec::new(), Found::Free);
    assert_eq!((commits(), s.batch()), (Some(vec![vec!["2"]]), taken(&[("b", &["message"])])));
}

#[tokio::test]
async fn what_a_batch_could_not_do_comes_first_and_alone() {
    let s = Setting::new();
    s.push("a", "1", true);
    s.push("a", "2", true);
    assert_eq!(s.batch(), taken(&[("a", &["1", "2"])]));
    s.push("a", "3", true);
    s.queues.give_back(&convo("a"), vec![s.note("1", false), s.note("2", false)], Found::Free);
    for name in ["1", "2"] {
        assert_eq!((s.batch(), s.alone()), (None, Some(name)));
        s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    }
    assert_eq!(s.batch(), taken(&[("a", &["3"])]));
}

#[tokio::test]
async fn a_hot_conversation_takes_its_share_and_no_more() {
    let s = Setting::new();
    for _ in 0..BATCH * 2 {
        s.push("hot", "hot", true);
    }
    for cold in ["c1", "c2", "c3"] {
        s.push(cold, "cold", true);
    }
    let batch = s.batch().unwrap();
    assert_eq!(batch.iter().map(|(_, names)| names.len()).collect::<Vec<_>>(), [BATCH / 4, 1, 1, 1]);
    let alone = Setting::new();
    for _ in 0..BATCH * 2 {
        alone.push("hot", "hot", true);
    }
    assert_eq!(alone.batch().unwrap()[0].1.len(), BATCH, "all of it where nobody else is ready");
}

#[tokio::test]
async fn a_full_queue_refuses_and_others_have_room() {
    let s = Setting::new();
    for _ in 0..MOST_WAITING {
        s.push("a", "waits", true);
    }
    s.push("a", "one too many", true);
    assert_eq!(*s.refused.lock().unwrap(), ["one too many"]);
    s.push("b", "waits", true);
    assert_eq!(s.refused.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_worker_that_waits_is_woken() {
    let s = Setting::new();
    let queues = s.queues.clone();
    let mut waiting = Box::pin(queues.next(Company::Messages));
    assert!((&mut waiting).now_or_never().is_none());
    s.push("a", "1", true);
    assert_eq!(waiting.await.len(), 1);
    let mut waiting = Box::pin(queues.next(Company::Nobody));
    assert!((&mut waiting).now_or_never().is_none());
    s.push("b", "2", false);
    assert_eq!(waiting.await[0].1[0].name, "2");
}

#[tokio::test]
async fn a_conversation_that_others_have_waits_by_itself_and_takes_its_batches_along() {
    let s = Setting::new();
    let again = || {
        let batch = s.queues.next(Company::Nobody).now_or_never()?;
        Some(batch.iter().map(|(_, notes)| notes.iter().map(|note| note.name).collect()).collect::<Vec<Vec<_>>>())
    };
    s.push("a", "1", true);
    assert_eq!(s.batch(), taken(&[("a", &["1"])]));
    s.queues.give_back(&convo("a"), vec![s.note("1", true)], Found::Taken);
    assert_eq!((again(), s.batch()), (None, taken(&[("a", &["1"])])), "once may be chance");
    s.push("a", "2", true);
    s.push("a", "alone", false);
    s.queues.give_back(&convo("a"), vec![s.note("1", true)], Found::Taken);
    s.push("b", "3", true);
    assert_eq!((s.batch(), again()), (taken(&[("b", &["3"])]), Some(vec![vec!["1", "2"]])));
    s.queues.give_back(&convo("a"), Vec::new(), Found::Waited);
    assert_eq!(again(), Some(vec![vec!["alone"]]), "what keeps no company still comes alone");
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    s.push("a", "4", true);
    assert_eq!((s.batch(), again()), (None, Some(vec![vec!["4"]])), "for a moment it stays so");
    s.queues.give_back(&convo("a"), Vec::new(), Found::Free);
    for contention in s.queues.state().contended.values_mut() {
        contention.since -= CONTENDED_FOR;
    }
    s.push("a", "5", true);
    assert_eq!(s.batch(), taken(&[("a", &["5"])]));
}

#[tokio::test]
async fn no_more_conversations_are_remembered_as_contended_than_there_is_room_for() {
    let s = Setting::new();
    for n in 0..=MOST_CONTENDED {
        s.queues.state().note(&convo(&format!("c{n}")), Found::Waited);
    }
    assert_eq!(s.queues.state().contended.len(), MOST_CONTENDED);
    assert!(!s.queues.state().is_contended(&convo(&format!("c{MOST_CONTENDED}"))));
    for contention in s.queues.state().contended.values_mut() {
        contention.since -= CONTENDED_FOR;
    }
    s.queues.state().note(&convo("new"), Found::Waited);
    assert_eq!(s.queues.state().contended.len(), 1, "those that are over make room");
}
