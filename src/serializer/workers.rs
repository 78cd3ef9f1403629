//! The workers that empty the queues: one for batches of messages, some for commands that share a transaction, the others for
//! everything else, one request at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::serializer::queues::{Company, Queues};
use crate::serializer::sending::{Sending, send_together};
use crate::store::{Locks, Shareable, Store};
use crate::timing::Timings;

use super::advisory::{Request, Running};

/// Workers for commands in shared transactions.
const SHARING: usize = 2;
/// How long a worker waits for a shared transaction before it begins the next one beside it: the database may have fallen silent on
/// one connection and not on others.
const PATIENCE: Duration = Duration::from_millis(500);
/// Most transactions that one worker has begun and not ended.
const UNDER_WAY: usize = 4;

/// Starts the workers, on the store's runtime.
pub(super) fn start(queues: &Queues<Request>, store: &Store, max_connections: usize) {
    store.runtime().spawn(share(Company::Messages, queues.clone(), store.clone()));
    for _ in 0..SHARING {
        store.runtime().spawn(share(Company::Commands, queues.clone(), store.clone()));
    }
    // Half of the connections, so that reads never wait for writes that wait for locks.
    for _ in 0..(max_connections / 2).max(1) {
        store.runtime().spawn(run_alone(queues.clone(), store.clone()));
    }
}

/// A conversation in a worker's hands. It is given back with this value, also by a panic.
struct Held {
    queues: Queues<Request>,
    convo: ConvoId,
    /// What could not be done.
    undone: Vec<Request>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.queues.give_back(&self.convo, std::mem::take(&mut self.undone));
    }
}

/// What a worker has taken.
type Batch = Vec<(Held, Vec<Request>)>;

async fn take(queues: &Queues<Request>, company: Company) -> Batch {
    let held = |convo| Held { queues: queues.clone(), convo, undone: Vec::new() };
    queues.next(company).await.into_iter().map(|(convo, requests)| (held(convo), requests)).collect()
}

async fn run_alone(queues: Queues<Request>, store: Store) {
    loop {
        for (_held, requests) in take(&queues, Company::Nobody).await {
            for request in requests {
                // In a task of its own, so that a panic costs one request and not the worker.
                let _ = store.runtime().spawn(request.running().run(store.clone())).await;
            }
        }
    }
}

async fn share(company: Company, queues: Queues<Request>, store: Store) {
    let room = Arc::new(Semaphore::new(UNDER_WAY));
    loop {
        let place = room.clone().acquire_owned().await.expect("nobody closes it");
        let batch = take(&queues, company).await;
        let working = store.clone();
        let work = store.runtime().spawn(async move {
            match company {
                Company::Messages => send(&working, batch).await,
                _ => run_commands(&working, batch).await,
            }
            drop(place);
        });
        // What is late goes on by itself, and so does the worker.
        let _ = tokio::time::timeout(PATIENCE, work).await;
    }
}

async fn send(store: &Store, batch: Batch) {
    let (mut held, requests): (Vec<Held>, Vec<Vec<Request>>) = batch.into_iter().unzip();
    let sends: Vec<Sending> = requests.into_iter().flatten().filter_map(Request::send).collect();
    let (_, undone) = send_together(store, sends, Locks::Try).await;
    for send in undone {
        if let Some(held) = held.iter_mut().find(|held| held.convo == send.command.convo_id) {
            held.undone.push(Request::Alone(send.running()));
        }
    }
}

async fn run_commands(store: &Store, batch: Batch) {
    // Of commands, each conversation has given one, or none if that had waited for too long.
    let (mut held, requests): (Vec<Held>, Vec<Vec<Request>>) =
        batch.into_iter().filter(|(_, requests)| !requests.is_empty()).unzip();
    let runs: Vec<(Box<dyn Running>, usize)> = requests.into_iter().flatten().filter_map(Request::shared).collect();
    let commands: Vec<Arc<dyn Shareable>> = runs.iter().map(|(run, _)| run.shareable()).collect();
    let [(first, _), others @ ..] = runs.as_slice() else { return };
    let is_alone = others.is_empty();
    // What is logged about several belongs to no request.
    let span = if is_alone { first.span() } else { tracing::Span::none() };
    let shared = Timings::default();
    let done = shared.scope(store.share(commands.clone())).instrument(span).await;
    let somebody_ended_it = commands.iter().any(|command| command.ended_it());
    for (place, (run, bytes)) in runs.into_iter().enumerate() {
        let undone = match &done {
            Ok(done) if done[place] => {
                run.done(&shared);
                continue;
            }
            Err(error) if is_verdict(error, is_alone) => {
                run.refuse(error.clone());
                continue;
            }
            // It was another one's fault: together with others again, without that one.
            Err(_) if somebody_ended_it && !commands[place].ended_it() => Request::Share(run, bytes),
            _ => Request::Alone(run),
        };
        held[place].undone.push(undone);
    }
}

/// Whether what ended a shared transaction is the answer to each of its commands. Where one waited in vain, it waits longer alone.
fn is_verdict(error: &Error, is_alone: bool) -> bool {
    match error.code {
        // PostgreSQL is away, and would be for each of them alone.
        Code::DatabaseUnavailable => true,
        Code::Overloaded => false,
        _ => is_alone,
    }
}
