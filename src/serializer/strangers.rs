//! Strangers to a conversation, who get no further than here: a queue or a lock would tell them by its time that the conversation
//! exists, and make its members wait.
//!
//! Whoever writes a conversation for the first time at this replica is looked for in its roster; once it was found, it is remembered.
//! Those who arrive while one look runs are looked for together in the next.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::background::{Background, tasks};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::store::{Store, not_found};
use crate::timing::within_deadline;

/// Most requests that wait to be looked for.
const MOST_WAITING: usize = 10_000;
/// Most pairs of conversation and person in one statement.
const BATCH: usize = 256;
/// How many of those who are or were in a conversation are remembered. Once it is true it stays so.
const MOST_REMEMBERED: u64 = 100_000;

type Pair = (ConvoId, Did);

/// A pair, and whether that person is or was in that conversation.
type Question = (Pair, oneshot::Sender<Result<bool, Error>>);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Strangers {
    looking: mpsc::Sender<Question>,
    acquainted: moka::sync::Cache<Pair, ()>,
}

impl Strangers {
    /// Starts to look.
    pub fn new(store: &Store, background: &Background) -> Self {
        let (looking, looked_for) = mpsc::channel(MOST_WAITING);
        background.start(&tasks::ROSTER_READER, look(store.clone(), looked_for));
        Self { looking, acquainted: moka::sync::Cache::new(MOST_REMEMBERED) }
    }

    /// Refuses who never was in the conversation, as if there were none.
    pub async fn refuse(&self, convo: &ConvoId, did: &Did) -> Result<(), Error> {
        let pair = (convo.clone(), did.clone());
        if self.acquainted.contains_key(&pair) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        if self.looking.try_send((pair.clone(), reply)).is_err() {
            return Err(
                Code::Overloaded.because("too many requests are waiting for membership checks; nothing was changed")
            );
        }
        let Ok(answer) = within_deadline(Duration::ZERO, answer).await else {
            return Err(Code::Overloaded.because("the membership check took too long; nothing was changed"));
        };
        match answer.unwrap_or_else(|_| Err(Code::InternalServerError.because("the roster could not be read")))? {
            true => self.acquainted.insert(pair, ()),
            false => return Err(not_found()),
        }
        Ok(())
    }
}

/// One statement at a time, until nobody can ask any more.
async fn look(store: Store, mut looked_for: mpsc::Receiver<Question>) {
    let mut arrived = Vec::with_capacity(BATCH);
    while looked_for.recv_many(&mut arrived, BATCH).await > 0 {
        let pairs: HashSet<&Pair> = arrived.iter().map(|(pair, _)| pair).collect();
        let pairs: Vec<&Pair> = pairs.into_iter().collect();
        let found = store.were_ever_members(&pairs).await;
        for ((convo, did), reply) in arrived.drain(..) {
            let is_one = |found: &HashSet<(String, String)>| found.contains(&(convo.to_string(), did.to_string()));
            // Whoever asked may be gone.
            let _ = reply.send(found.as_ref().map(is_one).map_err(Clone::clone));
        }
    }
}
