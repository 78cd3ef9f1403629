//! The queue before a conversation's lock, inside one replica: first come, first served, bounded in length and time.
//!
//! Without it every request that waits for a hot conversation would hold a database connection while it waits, and the pool
//! would be gone for everybody else. It is about connections and fairness only; the lock and the swap do the deciding.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::metrics::Metrics;

/// Most requests that wait for one conversation.
pub const MOST_WAITING: usize = 256;
/// How long one waits for its turn.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The queues of all conversations that are being written. Cheap to clone.
#[derive(Clone)]
pub struct WaitingRoom(Arc<Inner>);

struct Inner {
    /// A queue exists as long as somebody is in it.
    queues: Mutex<HashMap<ConvoId, Queue>>,
    metrics: Metrics,
}

struct Queue {
    turn: Arc<Semaphore>,
    inside: usize,
}

/// A place in a queue; leaving gives it back.
struct Place {
    room: WaitingRoom,
    convo: ConvoId,
}

/// It is this one's turn, until it is dropped.
pub struct Turn {
    // In this order: the next one is let in before the place is given up, so the queue never vanishes under it.
    _permit: OwnedSemaphorePermit,
    _place: Place,
}

impl WaitingRoom {
    pub fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { queues: Mutex::default(), metrics }))
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<ConvoId, Queue>> {
        // Nothing panics while it is held.
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn on `convo`. Errors: `Overloaded` when the queue is full or the wait runs out.
    pub async fn enter(&self, convo: &ConvoId) -> Result<Turn, Error> {
        let (place, turn) = self.queue_up(convo)?;
        match tokio::time::timeout(LONGEST_WAIT, turn.acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Turn { _permit: permit, _place: place }),
            Ok(Err(closed)) => Err(Error::internal(closed)),
            Err(_) => {
                Err(Code::Overloaded
                    .because("waited too long for other writers of this conversation; nothing was changed"))
            }
        }
    }

    fn queue_up(&self, convo: &ConvoId) -> Result<(Place, Arc<Semaphore>), Error> {
        let mut queues = self.queues();
        let queue =
            queues.entry(convo.clone()).or_insert_with(|| Queue { turn: Arc::new(Semaphore::new(1)), inside: 0 });
        if queue.inside > MOST_WAITING {
            self.0.metrics.waiting_room_full();
            return Err(
                Code::Overloaded.because("too many requests are waiting for this conversation; nothing was changed")
            );
        }
        queue.inside += 1;
        Ok((Place { room: self.clone(), convo: convo.clone() }, queue.turn.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queues = self.room.queues();
        if let Some(queue) = queues.get_mut(&self.convo) {
            queue.inside -= 1;
            if queue.inside == 0 {
                queues.remove(&self.convo);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn convo(name: &str) -> ConvoId {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn turns_are_given_in_order_of_arrival() {
        let room = WaitingRoom::new(Metrics::default());
        let first = room.enter(&convo("a")).await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = (0..5)
            .map(|n| {
                let (room, order) = (room.clone(), order.clone());
                let mut entering = Box::pin(async move {
                    let _turn = room.enter(&convo("a")).await.unwrap();
                    order.lock().unwrap().push(n);
                });
                // Polled once here, so that the order of arrival is the order of this loop.
                assert!(futures_util::FutureExt::now_or_never(&mut entering).is_none());
                tokio::spawn(entering)
            })
            .collect();
        drop(first);
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4]);
        assert!(room.queues().is_empty(), "an empty queue is forgotten");
    }

    #[tokio::test]
    async fn conversations_do_not_wait_for_each_other() {
        let room = WaitingRoom::new(Metrics::default());
        let _a = room.enter(&convo("a")).await.unwrap();
        let _b = room.enter(&convo("b")).await.unwrap();
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_leaver_makes_room() {
        let room = WaitingRoom::new(Metrics::default());
        let turn = room.enter(&convo("a")).await.unwrap();
        let mut places: Vec<_> = (0..MOST_WAITING).map(|_| room.queue_up(&convo("a")).unwrap()).collect();
        let refused = room.enter(&convo("a")).await.err().unwrap();
        assert_eq!(refused.code, Code::Overloaded);
        assert!(refused.details.retry_after_ms.is_some());
        places.pop();
        assert!(room.queue_up(&convo("a")).is_ok());
        drop(turn);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_runs_out_is_refused_and_leaves_the_queue() {
        let room = WaitingRoom::new(Metrics::default());
        let turn = room.enter(&convo("a")).await.unwrap();
        assert_eq!(room.enter(&convo("a")).await.err().unwrap().code, Code::Overloaded);
        drop(turn);
        assert!(room.queues().is_empty());
    }
}
