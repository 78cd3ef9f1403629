//! The workers that empty the queues: one for batches of messages, one for batches of commits, the others for everything that waits for a
//! lock, one conversation at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::background::{Background, tasks};
use crate::batching::{self, BatchResult, Queued, Size, Unfinished};
use crate::commands::{SendMessage, SubmitCommit};
use crate::ids::ConvoId;
use crate::store::{BatchKind, Batched, LockMode, Locks, Store};

use super::queues::{Batch, Found, Lease, Queues, Worker};

/// Time after which a worker begins the next batch beside one that has not ended: the database may be silent on one connection only.
const BATCH_PATIENCE: Duration = Duration::from_millis(500);
/// Most batches that one worker has begun and not ended.
const MAX_BATCHES: usize = 4;
/// Most batches of one worker whose refused commands are being answered. Those of any other run alone, which answers them.
const MAX_ANSWERED: usize = 4;

/// Starts the workers.
pub(super) fn start(queues: &Queues, store: &Store, max_connections: usize, background: &Background) {
    let (messages, commits) = (BatchKind::Messages, BatchKind::Commits);
    background.start(&tasks::MESSAGE_BATCHES, run_batches::<SendMessage>(messages, queues.clone(), store.clone()));
    background.start(&tasks::COMMIT_BATCHES, run_batches::<SubmitCommit>(commits, queues.clone(), store.clone()));
    // Half of the connections, so that reads never wait for writes that wait for locks.
    for _ in 0..(max_connections / 2).max(1) {
        background.start(&tasks::LOCK_WORKER, wait_for_locks(queues.clone(), store.clone()));
    }
}

/// Waits for the lock of one conversation after the other, with a command that runs alone or with a batch.
async fn wait_for_locks(queues: Queues, store: Store) {
    loop {
        let batch = queues.next(Worker::Waits).await;
        let working = store.clone();
        let first = batch.iter().find_map(|(_, commands)| commands.first());
        let kind = first.and_then(|command| command.kind());
        let work = async move {
            match kind {
                Some(kind @ BatchKind::Messages) => run_waiting::<SendMessage>(kind, &working, batch).await,
                Some(kind @ BatchKind::Commits) => run_waiting::<SubmitCommit>(kind, &working, batch).await,
                None => run_alone(&working, batch).await,
            }
        };
        // In a task of its own, so that a panic costs its commands and not the worker.
        let _ = tokio::spawn(work).await;
    }
}

async fn run_alone(store: &Store, batch: Batch) {
    for (_lease, commands) in batch {
        for command in commands {
            command.run(store.clone(), LockMode::Lock).await;
        }
    }
}

async fn run_waiting<C: Batched>(kind: BatchKind, store: &Store, batch: Batch) {
    let (leases, unfinished) = run_batch::<C>(kind, store, batch, Locks::Wait).await;
    finish(store, leases, unfinished).await;
}

async fn run_batches<C: Batched>(kind: BatchKind, queues: Queues, store: Store) {
    let (begun, answered) = (Arc::new(Semaphore::new(MAX_BATCHES)), Arc::new(Semaphore::new(MAX_ANSWERED)));
    loop {
        let permit = begun.clone().acquire_owned().await.expect("the semaphore is never closed");
        let batch = queues.next(Worker::Batches(kind)).await;
        let (working, answered) = (store.clone(), answered.clone());
        let work = tokio::spawn(async move {
            let (leases, unfinished) = run_batch::<C>(kind, &working, batch, Locks::Try).await;
            drop(permit);
            // The next batch need not wait until these are answered.
            match answered.try_acquire_owned() {
                Ok(permit) => drop(tokio::spawn(async move {
                    finish(&working, leases, unfinished).await;
                    drop(permit);
                })),
                Err(_) => requeue(leases, unfinished),
            }
        });
        // A late batch goes on by itself, and so does the worker.
        let _ = tokio::time::timeout(BATCH_PATIENCE, work).await;
    }
}

/// Runs a batch. Returns the commands that it did not do, and the leases of their conversations.
async fn run_batch<C: Batched>(
    kind: BatchKind,
    store: &Store,
    batch: Batch,
    locks: Locks,
) -> (Vec<Lease>, Vec<Unfinished<C>>) {
    let (mut leases, commands): (Vec<Lease>, Vec<Vec<Box<dyn Queued>>>) = batch.into_iter().unzip();
    let commands = batching::of_type::<C>(commands.into_iter().flatten().collect());
    let arrivals = leases.first().map(|lease| lease.arrivals(kind));
    let arrivals = move |size: Size| {
        let arrived = arrivals.as_ref().map(|arrivals| arrivals(size.commands, size.bytes));
        batching::of_type::<C>(arrived.unwrap_or_default())
    };
    let BatchResult { unfinished, waited, .. } = batching::run_batch(store, commands, locks, arrivals).await;
    for lease in leases.iter_mut().filter(|_| waited) {
        lease.found = Found::Waited;
    }
    leases.retain_mut(|lease| {
        let of_it = unfinished.iter().filter(|unfinished| *unfinished.pending.command.convo() == lease.convo);
        let (mut any, mut contended) = (false, false);
        for unfinished in of_it {
            any = true;
            contended |= unfinished.is_contended();
        }
        if contended {
            lease.found = if locks == Locks::Wait { Found::Waited } else { Found::Taken };
        }
        any
    });
    (leases, unfinished)
}

/// Answers the refused commands, queues the others again, and returns the leases.
async fn finish<C: Batched>(store: &Store, leases: Vec<Lease>, unfinished: Vec<Unfinished<C>>) {
    // Only a conversation with such a command waits until it is answered.
    let answerable = unfinished.iter().filter(|unfinished| unfinished.may_be_answered());
    let waiting: HashSet<ConvoId> = answerable.map(|unfinished| unfinished.pending.command.convo().clone()).collect();
    let waits = |convo: &ConvoId| waiting.contains(convo);
    let (waiting_leases, free) = leases.into_iter().partition(|lease| waits(&lease.convo));
    let (refused, others) = unfinished.into_iter().partition(|unfinished| waits(unfinished.pending.command.convo()));
    requeue::<C>(free, others);
    requeue(waiting_leases, batching::answer_refused(store, refused).await);
}

/// Queues commands again, and returns the leases.
fn requeue<C: Batched>(mut leases: Vec<Lease>, unfinished: Vec<Unfinished<C>>) {
    for unfinished in unfinished {
        if let Some(lease) = leases.iter_mut().find(|lease| lease.convo == *unfinished.pending.command.convo()) {
            lease.unfinished.push(unfinished.into_queued());
        }
    }
}
