//! The workers that empty the queues: one for batches of messages, one for batches of commits, the others for everything that waits for a
//! lock, one conversation at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;

use crate::background::{Background, tasks};
use crate::commands::{AddMembers, SendMessage};
use crate::ids::ConvoId;
use crate::store::{Locks, Store};

use super::advisory::{Queued, Request};
use super::queues::{Company, Found, Queues};
use super::sharing::{self, Load, Next, Outcome, Undone, Waiting};

/// How long a worker waits for a shared transaction before it begins the next one beside it: the database may have fallen silent on
/// one connection and not on others.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many answers are looked up at a time. Each may hold commits of some megabytes.
const LOOKING: usize = 8;
/// Most transactions that one worker has begun and not ended.
const UNDER_WAY: usize = 4;

/// Starts the workers.
pub(super) fn start(queues: &Queues<Request>, store: &Store, max_connections: usize, background: &Background) {
    background.start(&tasks::MESSAGE_BATCHES, share::<SendMessage>(queues.clone(), store.clone()));
    background.start(&tasks::COMMIT_BATCHES, share::<AddMembers>(queues.clone(), store.clone()));
    // Half of the connections, so that reads never wait for writes that wait for locks.
    for _ in 0..(max_connections / 2).max(1) {
        background.start(&tasks::LOCK_WORKER, wait(queues.clone(), store.clone()));
    }
}

/// A conversation in a worker's hands. It is given back with this value, also by a panic.
struct Held {
    queues: Queues<Request>,
    convo: ConvoId,
    /// What could not be done.
    undone: Vec<Request>,
    found: Found,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.queues.give_back(&self.convo, std::mem::take(&mut self.undone), self.found);
    }
}

/// What a worker has taken.
type Batch = Vec<(Held, Vec<Request>)>;

async fn take(queues: &Queues<Request>, company: Company) -> Batch {
    let held = |convo| Held { queues: queues.clone(), convo, undone: Vec::new(), found: Found::Free };
    queues.next(company).await.into_iter().map(|(convo, requests)| (held(convo), requests)).collect()
}

/// Waits for the lock of one conversation after the other: with a request that keeps no company, or with a batch of those that do.
async fn wait(queues: Queues<Request>, store: Store) {
    loop {
        for taken in take(&queues, Company::Nobody).await {
            let working = store.clone();
            let work = async move {
                match taken.1.first() {
                    Some(Request::Send(_)) => wait_together::<SendMessage>(&working, taken).await,
                    Some(Request::Add(_)) => wait_together::<AddMembers>(&working, taken).await,
                    Some(Request::Alone(_)) | None => run_alone(&working, taken).await,
                }
            };
            // In a task of its own, so that a panic costs what was taken and not the worker.
            let _ = tokio::spawn(work).await;
        }
    }
}

async fn run_alone(store: &Store, (_held, requests): (Held, Vec<Request>)) {
    for request in requests {
        if let Request::Alone(run) = request {
            run.run(store.clone()).await;
        }
    }
}

async fn wait_together<C: Queued>(store: &Store, taken: (Held, Vec<Request>)) {
    let left = do_together::<C>(store, vec![taken], Locks::Wait).await;
    see_to(store, left).await;
}

async fn share<C: Queued>(queues: Queues<Request>, store: Store) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
        let batch = take(&queues, C::COMPANY).await;
        let working = store.clone();
        let work = tokio::spawn(async move {
            let left = do_together::<C>(&working, batch, Locks::Try).await;
            // The next transaction need not wait until these are answered.
            tokio::spawn(async move {
                see_to(&working, left).await;
                drop(place);
            });
        });
        // What is late goes on by itself, and so does the worker.
        let _ = tokio::time::timeout(PATIENCE, work).await;
    }
}

/// What a shared transaction has left, with the conversations that it is from.
type Left<C> = (Vec<Held>, Vec<Undone<C>>);

async fn do_together<C: Queued>(store: &Store, batch: Batch, locks: Locks) -> Left<C> {
    let (mut held, requests): (Vec<Held>, Vec<Vec<Request>>) = batch.into_iter().unzip();
    let requests: Vec<Waiting<C>> = requests.into_iter().flatten().filter_map(C::from_request).collect();
    let waits_for = held.first().map(|held| (held.queues.clone(), held.convo.clone()));
    let arrivals = move |load: Load| match &waits_for {
        Some((queues, convo)) => {
            let arrived = queues.more(convo, C::COMPANY, load.requests, load.bytes);
            arrived.into_iter().filter_map(C::from_request).collect()
        }
        None => Vec::new(),
    };
    let Outcome { undone, waited, .. } = sharing::share(store, requests, locks, arrivals).await;
    for held in held.iter_mut().filter(|_| waited) {
        held.found = Found::Waited;
    }
    held.retain_mut(|held| {
        let mut of_it = undone.iter().filter(|undone| *undone.waiting.command.convo() == held.convo).peekable();
        let is_left = of_it.peek().is_some();
        if of_it.any(|undone| undone.next == Next::Contended) {
            held.found = if locks == Locks::Wait { Found::Waited } else { Found::Taken };
        }
        is_left
    });
    (held, undone)
}

async fn see_to<C: Queued>(store: &Store, (mut held, undone): Left<C>) {
    for Undone { waiting, next } in settle(store, undone).await {
        if let Some(held) = held.iter_mut().find(|held| held.convo == *waiting.command.convo()) {
            let request = match next {
                Next::Alone => Request::Alone(Box::new(waiting)),
                Next::Later | Next::Contended => C::into_request(waiting),
            };
            held.undone.push(request);
        }
    }
}

/// Answers what is certain without a lock, a few at a time: whoever lost an epoch need not wait for all those who lost it too. Returns
/// the rest, in order. What cannot be read now is looked at again under the lock.
async fn settle<C: Queued>(store: &Store, undone: Vec<Undone<C>>) -> Vec<Undone<C>> {
    if undone.is_empty() || !C::SETTLES {
        return undone;
    }
    let Ok(db) = store.reader().await else { return undone };
    let mut positions = HashMap::new();
    for undone in &undone {
        let convo = undone.waiting.command.convo();
        if !positions.contains_key(convo) {
            let Ok(at) = db.position(convo).await else { continue };
            positions.insert(convo.clone(), at);
        }
    }
    let looking = undone.into_iter().map(async |undone| {
        let command = undone.waiting.command.clone();
        let at = positions.get(command.convo()).copied();
        let answer = match at {
            Some(at) => command.settled(&db, at).await,
            None => None,
        };
        match answer {
            Some(answer) => {
                undone.waiting.answer(answer);
                None
            }
            None => Some(undone),
        }
    });
    stream::iter(looking).buffered(LOOKING).filter_map(std::future::ready).collect().await
}
