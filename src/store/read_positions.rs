//! Read positions that reading has moved, written after the reply.
//!
//! Reading a page moves the reader's position, but no reply waits for that write. Positions gather here by conversation
//! and member, the furthest wins, and one task writes them in batches: those that arrive during a batch go into the
//! next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::ids::{ConvoId, Did};

use super::lanes::Lane;
use super::unit_of_work::Transaction;
use super::{Abort, Store, Tx, cursors};

/// Maximum number of waiting positions.
const MAX_WAITING: usize = 10_000;
/// Maximum number of positions in one statement.
const MAX_BATCH: usize = 500;

type Waiting = HashMap<(String, String), i64>;

/// Read positions that wait to be written. Cheap to clone; clones share the positions.
#[derive(Clone)]
pub struct ReadPositions(Arc<Inner>);

struct Inner {
    store: Store,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Counts the rounds in which all waiting positions were written or dropped. `flush` waits for it.
    settled: watch::Sender<u64>,
}

impl ReadPositions {
    pub fn new(store: Store) -> Self {
        let (waiting, arrived, settled) = (Mutex::default(), Notify::new(), watch::Sender::default());
        Self(Arc::new(Inner { store, waiting, arrived, settled }))
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // No code panics while it is held, and a map of numbers has no invalid state.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that `did` has read up to `seq`. If the queue is full, the position is dropped: some entries count as
    /// unread again.
    pub fn push(&self, convo: &ConvoId, did: &Did, seq: i64) {
        let mut waiting = self.waiting();
        if waiting.len() >= MAX_WAITING {
            tracing::warn!("too many read positions are waiting; one is dropped");
            return;
        }
        let position = waiting.entry((convo.to_string(), did.to_string())).or_insert(seq);
        *position = seq.max(*position);
        drop(waiting);
        self.0.arrived.notify_one();
    }

    /// Waits until all earlier positions are written.
    pub async fn flush(&self) {
        let mut settled = self.0.settled.subscribe();
        let now = *settled.borrow_and_update();
        self.0.arrived.notify_one();
        // The current batch may have been taken before the last push; the next one includes it.
        let _ = settled.wait_for(|batches| *batches >= now + 2).await;
    }

    /// Writes the positions for as long as the process runs.
    pub async fn write_all(self) {
        loop {
            self.0.arrived.notified().await;
            // Two rounds, so that the second answers a flush that arrives during the first.
            for _ in 0..2 {
                self.write().await;
                self.0.settled.send_modify(|batches| *batches += 1);
            }
        }
    }

    async fn write(&self) {
        let mut all: Vec<_> = std::mem::take(&mut *self.waiting()).into_iter().collect();
        // All replicas lock rows in the same order, so that they cannot deadlock.
        all.sort();
        for batch in all.chunks(MAX_BATCH) {
            let mut read = Read::default();
            for ((convo, did), seq) in batch {
                read.convos.push(convo.clone());
                read.dids.push(did.clone());
                read.seqs.push(*seq);
            }
            if let Err(error) = self.0.store.transact(read).await {
                tracing::warn!(%error, positions = batch.len(), "read positions could not be written; their entries count as unread");
            }
        }
    }
}

#[derive(Default)]
struct Read {
    convos: Vec<String>,
    dids: Vec<String>,
    seqs: Vec<i64>,
}

impl Transaction for Read {
    const NAME: &'static str = "readPositions";
    const LANE: Lane = Lane::Background;
    type Output = ();

    async fn execute(&self, tx: &Tx) -> Result<(), Abort> {
        cursors::read(tx, &self.convos, &self.dids, &self.seqs).await
    }
}
