//! Read positions that were moved by reading, written behind the reply.
//!
//! Reading a page moves the reader's position, but no reply waits for that write. Moves gather here by conversation and
//! member, the furthest wins, and one task writes them in batches: whatever came in while the last batch was being written
//! goes into the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use crate::ids::{ConvoId, Did};

use super::lanes::Lane;
use super::write::Transaction;
use super::{Abort, Store, Tx, cursors};

/// Most positions that wait to be written.
const MAX_WAITING: usize = 10_000;
/// Most positions in one statement.
const BATCH: usize = 500;

type Waiting = HashMap<(String, String), i64>;

/// The positions that wait, shared by all readers of a store.
#[derive(Clone, Default)]
pub struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Notify,
    /// Counts the rounds in which everything that waited was written or given up; `flush` waits for it.
    settled: watch::Sender<u64>,
}

impl Queue {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        // Nothing panics while it is held, and a map of numbers has no broken state.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `did` has read up to `seq`. Without room, which means that the database is away, the move is lost: a few
    /// entries count as unread once more, and nobody waits for that.
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

    /// Waits until everything that was pushed before is written.
    pub async fn flush(&self) {
        let mut settled = self.0.settled.subscribe();
        let now = *settled.borrow_and_update();
        self.0.arrived.notify_one();
        // The batch that is under way may have been taken before the last push; the one after it was not.
        let _ = settled.wait_for(|batches| *batches >= now + 2).await;
    }

    async fn write_all(&self, store: &Store) {
        loop {
            self.0.arrived.notified().await;
            // Twice, so that a flush that arrives during the first batch is answered by the second.
            for _ in 0..2 {
                self.write(store).await;
                self.0.settled.send_modify(|batches| *batches += 1);
            }
        }
    }

    async fn write(&self, store: &Store) {
        let mut all: Vec<_> = std::mem::take(&mut *self.waiting()).into_iter().collect();
        // In one order for everybody, so that two replicas do not wait for each other's rows in a circle.
        all.sort();
        for batch in all.chunks(BATCH) {
            let mut read = Read::default();
            for ((convo, did), seq) in batch {
                read.convos.push(convo.clone());
                read.dids.push(did.clone());
                read.seqs.push(*seq);
            }
            if let Err(error) = store.transact(read).await {
                tracing::warn!(%error, positions = batch.len(), "read positions could not be written; they count as unread");
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

impl Store {
    /// Where readers note what they have read.
    pub fn read_positions(&self) -> &Queue {
        &self.read_positions
    }

    /// Returns the task that writes the read positions, for as long as the process runs.
    pub fn write_read_positions(&self) -> impl Future<Output = ()> + Send + use<> {
        let store = self.clone();
        async move { store.read_positions.write_all(&store).await }
    }
}
