//! A client that follows the stream at whatever replica answers, comes back from its cursor whenever it is cut off, and records
//! everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use reqwest::Url;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::*;
use crate::support::client::xrpc::{Event, Xrpc};
use crate::support::lexicon::validate_event;

const NSID: &str = "blue.catbird.mls.streamConvoEvents";

/// What one client saw.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    /// The entries of each conversation in the order in which they came, repetitions included.
    pub entries: BTreeMap<String, Vec<u64>>,
    /// How often it had to connect.
    pub connections: u64,
    /// What else it was told, by type.
    pub others: Vec<(String, Value)>,
    /// Whether it has been told that it is up to date since it connected last, or began without a cursor.
    pub live: bool,
}

impl Seen {
    /// Whether it has seen an entry.
    pub fn has(&self, convo: &str, seq: u64) -> bool {
        self.entries.get(convo).is_some_and(|seqs| seqs.contains(&seq))
    }

    /// Panics unless the entries of a conversation, taken together, are exactly these, and each that was new came in order.
    #[track_caller]
    pub fn is_exactly(&self, convo: &str, wanted: std::ops::RangeInclusive<u64>) {
        let seqs = self.entries.get(convo).cloned().unwrap_or_default();
        let mut newest = *wanted.start() - 1;
        for seq in &seqs {
            assert!(*seq <= newest + 1, "a hole before {seq}, after {newest}: {seqs:?}");
            newest = newest.max(*seq);
        }
        assert_eq!((seqs.iter().min(), newest), (Some(wanted.start()), *wanted.end()), "{seqs:?}");
    }
}

/// See the module. Ends with its value.
pub struct Checker {
    seen: Arc<Mutex<Seen>>,
    changed: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Checker {
    /// Follows everything that concerns `who`, at these servers in turn.
    pub fn start(who: &Xrpc, servers: watch::Receiver<Vec<String>>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (change, changed) = watch::channel(0);
        let task = tokio::spawn(follow(who.clone(), servers, seen.clone(), change));
        Self { seen, changed, task }
    }

    /// What it has seen by now.
    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until it has seen enough.
    pub async fn until(&self, what: &str, enough: impl Fn(&Seen) -> bool) {
        let mut changed = self.changed.clone();
        let come = changed.wait_for(|_| enough(&self.seen.lock().unwrap()));
        let come = tokio::time::timeout(PATIENCE, come).await.is_ok_and(|come| come.is_ok());
        assert!(come, "{what} did not come: {:?}", self.seen());
    }
}

async fn follow(who: Xrpc, servers: watch::Receiver<Vec<String>>, seen: Arc<Mutex<Seen>>, change: watch::Sender<u64>) {
    let note = |what: &mut dyn FnMut(&mut Seen)| {
        what(&mut seen.lock().unwrap());
        change.send_modify(|count| *count += 1);
    };
    let mut cursor: Option<String> = None;
    let mut turn = 0;
    loop {
        let server: Url = {
            let servers = servers.borrow();
            servers[turn % servers.len()].parse().unwrap()
        };
        turn += 1;
        let Ok(Ok(mut stream)) = who.at(server).follow("streamConvoEvents", &[], cursor.as_deref()).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        note(&mut |seen| {
            seen.connections += 1;
            seen.live = cursor.is_none();
        });
        while let Ok(Some(Event { name, data, id })) = stream.next().await {
            validate_event(NSID, &data).unwrap_or_else(|why| panic!("{why}\n{data}"));
            cursor = Some(id);
            note(&mut |seen| match data["message"]["seq"].as_u64() {
                Some(seq) => {
                    let convo = data["message"]["convoId"].as_str().unwrap().to_owned();
                    seen.entries.entry(convo).or_default().push(seq);
                }
                None => {
                    seen.live |= data["info"] == "replayed";
                    seen.others.push((name.clone(), data.clone()));
                }
            });
        }
    }
}
