//! The check for strangers, callers that were never members of a conversation. They are refused before the queues: the time of a queue or a
//! lock would show them that the conversation exists, and would make its members wait.
//!
//! The first write of a caller in a conversation at this replica looks it up in the roster; a member that was found is cached. Callers that
//! arrive while one lookup runs share the next one.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::background::{Background, tasks};
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::store::{Store, not_found};
use crate::timing::within_deadline;

/// Most requests that wait for a lookup.
const MAX_WAITING: usize = 10_000;
/// Most pairs of conversation and person in one statement.
const MAX_LOOKUP: usize = 256;
/// Most cached pairs. A pair that was found stays true.
const MAX_CACHED: u64 = 100_000;

type Pair = (ConvoId, Did);

/// A pair, and the channel for whether that person is or was in that conversation.
type Question = (Pair, oneshot::Sender<Result<bool, Error>>);

/// The check and its cache. Cheap to clone.
#[derive(Clone)]
pub struct Strangers {
    looking: mpsc::Sender<Question>,
    known: moka::sync::Cache<Pair, ()>,
}

impl Strangers {
    /// Starts the lookups.
    pub fn new(store: &Store, background: &Background) -> Self {
        let (looking, looked_for) = mpsc::channel(MAX_WAITING);
        background.start(&tasks::ROSTER_READER, look(store.clone(), looked_for));
        Self { looking, known: moka::sync::Cache::new(MAX_CACHED) }
    }

    /// Refuses a caller that was never in the conversation, as if there were none.
    pub async fn refuse(&self, convo: &ConvoId, did: &Did) -> Result<(), Error> {
        let pair = (convo.clone(), did.clone());
        if self.known.contains_key(&pair) {
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
            true => self.known.insert(pair, ()),
            false => return Err(not_found()),
        }
        Ok(())
    }
}

/// Runs one statement at a time, until no sender is left.
async fn look(store: Store, mut looked_for: mpsc::Receiver<Question>) {
    let mut arrived = Vec::with_capacity(MAX_LOOKUP);
    while looked_for.recv_many(&mut arrived, MAX_LOOKUP).await > 0 {
        let pairs: HashSet<&Pair> = arrived.iter().map(|(pair, _)| pair).collect();
        let pairs: Vec<&Pair> = pairs.into_iter().collect();
        let found = store.were_ever_members(&pairs).await;
        for ((convo, did), reply) in arrived.drain(..) {
            let is_one = |found: &HashSet<(String, String)>| found.contains(&(convo.to_string(), did.to_string()));
            // The caller may be gone.
            let _ = reply.send(found.as_ref().map(is_one).map_err(Clone::clone));
        }
    }
}
