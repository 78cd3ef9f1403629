//! Turns of the commits of one conversation at this replica, so that races between them are fair.
//!
//! One commit that may be accepted is with the queues at a time; the others wait here ([`Race`] has the order). The database decides what is
//! accepted: a commit that goes without its turn costs fairness and nothing else, so each wait here has an end.

mod race;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use crate::batching::no_room;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};

use race::{Outcome, Race};

/// Longest wait of a commit for its turn. After that it goes to the queues as if there were none.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// Most commits that wait for their turn in one conversation, and in all of them together.
const MAX_WAITING: usize = 256;
const MAX_ALL_WAITING: usize = 20_000;
/// Most losses whose members' places are remembered. For one more the oldest is forgotten.
const MAX_PLACES: usize = 16_384;
/// Time for which the place of a member is remembered after its last loss.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// Interval at which a race that commits wait for is looked at.
const TICK: Duration = Duration::from_millis(5);

/// The races of all conversations. Cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    /// Conversations with a commit here, or a remembered place.
    races: HashMap<ConvoId, Race>,
    /// The losses whose members' places are remembered, oldest first.
    places: VecDeque<(Instant, ConvoId, Did)>,
    /// The last place that was given away.
    tickets: u64,
}

impl State {
    /// Forgets the places whose time is over, and the oldest ones if there are too many.
    fn forget(&mut self, now: Instant) {
        loop {
            let is_full = self.places.len() > MAX_PLACES;
            let oldest = self.places.pop_front_if(|(lost_at, ..)| is_full || now > *lost_at + REMEMBERED_FOR);
            let Some((lost_at, convo, did)) = oldest else { return };
            if let Some(race) = self.races.get_mut(&convo) {
                race.forget(&did, lost_at);
                self.remove_if_over(&convo);
            }
        }
    }

    fn remove_if_over(&mut self, convo: &ConvoId) {
        if self.races.get(convo).is_some_and(Race::is_over) {
            self.races.remove(convo);
        }
    }
}

impl Turns {
    pub fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), room: Semaphore::new(MAX_ALL_WAITING) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a commit that was made in that epoch may go to the queues: it is its turn, it has lost and is to be told, or it has waited
    /// for [`MAX_WAIT`]. Errors: `Overloaded` if there is no room.
    pub async fn wait(&self, convo: &ConvoId, did: &Did, made_in: Option<i64>) -> Result<Turn, Error> {
        let _room = self.0.room.try_acquire().map_err(|_| no_room("this replica"))?;
        let (turn, go) = self.enter(convo, did, made_in)?;
        if tokio::time::timeout(MAX_WAIT, go).await.is_err()
            && let Some(race) = self.state().races.get_mut(convo)
        {
            race.go(turn.ticket);
        }
        Ok(turn)
    }

    fn enter(&self, convo: &ConvoId, did: &Did, made_in: Option<i64>) -> Result<(Turn, oneshot::Receiver<()>), Error> {
        let (now, (sender, go)) = (Instant::now(), oneshot::channel());
        let mut state = self.state();
        state.forget(now);
        state.tickets += 1;
        let ticket = state.tickets;
        let race = state.races.entry(convo.clone()).or_default();
        if race.waiting() >= MAX_WAITING {
            return Err(no_room("this conversation"));
        }
        race.enter(did, made_in, ticket, sender, now);
        race.advance(now);
        if race.waiting() > 0 && !std::mem::replace(&mut race.has_clock, true) {
            tokio::spawn(self.clone().tick(convo.clone()));
        }
        Ok((Turn { turns: self.clone(), convo: convo.clone(), did: did.clone(), ticket, outcome: Outcome::Other }, go))
    }

    /// Looks at a race for as long as commits wait in it: the time for which a place is kept may be over.
    async fn tick(self, convo: ConvoId) {
        loop {
            tokio::time::sleep(TICK).await;
            let mut state = self.state();
            let Some(race) = state.races.get_mut(&convo) else { return };
            race.advance(Instant::now());
            race.has_clock = race.waiting() > 0;
            if !race.has_clock {
                return;
            }
        }
    }
}

/// A commit that waits for its turn or has got it. It ends when it is dropped.
pub struct Turn {
    turns: Turns,
    convo: ConvoId,
    did: Did,
    ticket: u64,
    outcome: Outcome,
}

impl Turn {
    /// Ends it with the result of its commit, which was made in that epoch.
    pub fn end<T>(mut self, made_in: Option<i64>, result: &Result<T, Error>) {
        self.outcome = match result {
            Ok(_) => Outcome::Won { next: made_in.map(|epoch| epoch + 1) },
            Err(error) if error.code == Code::EpochMismatch => Outcome::Lost { present: error.details.server_epoch },
            Err(_) => Outcome::Other,
        };
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (now, mut state) = (Instant::now(), self.turns.state());
        state.tickets += 1;
        let last = state.tickets;
        let Some(race) = state.races.get_mut(&self.convo) else { return };
        let is_remembered = race.leave(&self.did, self.ticket, self.outcome, (now, last));
        race.advance(now);
        if is_remembered {
            state.places.push_back((now, self.convo.clone(), self.did.clone()));
            state.forget(now);
        }
        state.remove_if_over(&self.convo);
    }
}

#[cfg(test)]
#[path = "turns_tests.rs"]
mod tests;
