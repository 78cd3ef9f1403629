//! Concurrency limit per caller, for requests and for large bodies. Further requests queue in order of arrival, so no
//! caller holds more than these few connections to PostgreSQL, however many it asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::timing::{Stage, Timings, measure, within};
use crate::trace::Part;

use super::buckets::Key;

/// Maximum number of concurrent requests of one caller at one replica: the number of processors, within this range.
const CONCURRENCY: std::ops::RangeInclusive<usize> = 2..=4;
/// Maximum number of its requests that wait.
pub const MAX_WAITING: usize = 128;
/// Maximum time that one of them waits.
pub const MAX_WAIT: Duration = Duration::from_secs(5);
/// Wait that a client is told if there is no slot. The time of the next free slot is not known.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Number of concurrent requests of one caller (within [`CONCURRENCY`]).
pub fn max_concurrent() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.clamp(*CONCURRENCY.start(), *CONCURRENCY.end())
}

/// Slots of all callers for one kind of work. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Slots {
    max_concurrent: usize,
    queues: Arc<Mutex<HashMap<Key, Queue>>>,
}

/// Requests of one caller.
#[derive(Debug)]
struct Queue {
    places: Arc<Semaphore>,
    /// Number of running and waiting requests.
    requests: usize,
}

/// Slot of a running request, released when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _place: OwnedSemaphorePermit,
    _queued: Queued,
}

/// A request in its caller's queue, waiting or running.
#[derive(Debug)]
struct Queued {
    slots: Slots,
    key: Key,
}

impl Slots {
    /// Creates slots, this many for each caller.
    pub(super) fn new(max_concurrent: usize) -> Self {
        Self { max_concurrent, queues: Arc::default() }
    }

    /// Waits for a slot. `None`: too many requests wait, or this one has waited too long.
    pub(super) async fn take(&self, key: Key) -> Option<Slot> {
        let (places, queued) = self.enqueue(key)?;
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let waiting = within(MAX_WAIT, places.acquire_owned());
                let _turn = Timings::span(Part::Stage("turn"));
                measure(Stage::Queue, waiting).await.ok()?.ok()?
            }
        };
        Some(Slot { _place: place, _queued: queued })
    }

    fn enqueue(&self, key: Key) -> Option<(Arc<Semaphore>, Queued)> {
        let mut queues = self.queues();
        let new = || Queue { places: Arc::new(Semaphore::new(self.max_concurrent)), requests: 0 };
        let line = queues.entry(key).or_insert_with(new);
        if line.requests >= self.max_concurrent + MAX_WAITING {
            return None;
        }
        line.requests += 1;
        Some((line.places.clone(), Queued { slots: self.clone(), key }))
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Key, Queue>> {
        // No code panics while it holds this lock.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut queues = self.slots.queues();
        if let Some(line) = queues.get_mut(&self.key) {
            line.requests -= 1;
            if line.requests == 0 {
                queues.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fixed_number_run_and_the_others_wait_in_order_for_a_bounded_time() {
        let (slots, key) = (Slots::new(4), Key::of("a"));
        let mut had: Vec<Slot> = std::iter::from_fn(|| slots.take(key).now_or_never().flatten()).collect();
        assert_eq!(had.len(), 4);
        assert!(slots.take(Key::of("b")).now_or_never().is_some(), "each caller has its own queue");

        let (mut first, mut second) = (Box::pin(slots.take(key)), Box::pin(slots.take(key)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(had.pop());
        assert!(second.as_mut().now_or_never().is_none(), "the first waiter has the slot");
        had.extend(first.await);
        assert_eq!(had.len(), 4);
        let begun = tokio::time::Instant::now();
        assert!(second.await.is_none());
        assert_eq!(begun.elapsed(), MAX_WAIT);
    }

    #[tokio::test]
    async fn a_bounded_number_waits_and_no_state_remains_afterwards() {
        let (slots, key) = (Slots::new(4), Key::of("a"));
        let mut waiting: Vec<_> = (0..4 + MAX_WAITING).map(|_| Box::pin(slots.take(key))).collect();
        let had: Vec<_> = waiting.iter_mut().filter_map(|one| one.as_mut().now_or_never()).collect();
        assert_eq!(had.len(), 4);
        assert!(slots.take(key).now_or_never().is_some_and(|slot| slot.is_none()), "refused at once");
        drop((waiting, had));
        assert!(slots.queues().is_empty());
    }
}
