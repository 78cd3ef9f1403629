//! Concurrency limit per caller, for requests and for large bodies. Further requests queue in order of arrival, so no
//! caller holds more than these few connections to PostgreSQL, however many it asks for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::timing::{Stage, measure, within};

use super::buckets::Key;

/// Maximum number of concurrent requests of one caller at one replica: the number of processors, within this range.
const AT_ONCE: std::ops::RangeInclusive<usize> = 2..=4;
/// Maximum number of its requests that wait.
pub const MOST_WAITING: usize = 128;
/// Maximum time that one of them waits.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait that a client is told if there is no slot. The time of the next free slot is not known.
pub(super) const TOLD_WAIT: Duration = Duration::from_secs(1);

/// Number of concurrent requests of one caller (within [`AT_ONCE`]).
pub fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.clamp(*AT_ONCE.start(), *AT_ONCE.end())
}

/// Slots of all callers for one kind of work. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    at_once: usize,
    lines: Arc<Mutex<HashMap<Key, Line>>>,
}

/// Requests of one caller.
#[derive(Debug)]
struct Line {
    places: Arc<Semaphore>,
    /// Number of running and waiting requests.
    requests: usize,
}

/// Slot of a running request, released when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    _in_line: InLine,
}

/// A request in its caller's queue, waiting or running.
#[derive(Debug)]
struct InLine {
    turns: Turns,
    key: Key,
}

impl Turns {
    /// Creates slots, this many for each caller.
    pub(super) fn new(at_once: usize) -> Self {
        Self { at_once, lines: Arc::default() }
    }

    /// Waits for a slot. `None`: too many requests wait, or this one has waited too long.
    pub(super) async fn take(&self, key: Key) -> Option<Turn> {
        let (places, in_line) = self.line_up(key)?;
        let place = match places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                let waiting = within(LONGEST_WAIT, places.acquire_owned());
                measure(Stage::Queue, waiting).await.ok()?.ok()?
            }
        };
        Some(Turn { _place: place, _in_line: in_line })
    }

    fn line_up(&self, key: Key) -> Option<(Arc<Semaphore>, InLine)> {
        let mut lines = self.lines();
        let new = || Line { places: Arc::new(Semaphore::new(self.at_once)), requests: 0 };
        let line = lines.entry(key).or_insert_with(new);
        if line.requests >= self.at_once + MOST_WAITING {
            return None;
        }
        line.requests += 1;
        Some((line.places.clone(), InLine { turns: self.clone(), key }))
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<Key, Line>> {
        // No code panics while it holds this lock.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        let mut lines = self.turns.lines();
        if let Some(line) = lines.get_mut(&self.key) {
            line.requests -= 1;
            if line.requests == 0 {
                lines.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_have_a_turn_and_the_others_wait_in_order_for_a_bounded_time() {
        let (turns, key) = (Turns::new(4), Key::of("a"));
        let mut had: Vec<Turn> = std::iter::from_fn(|| turns.take(key).now_or_never().flatten()).collect();
        assert_eq!(had.len(), 4);
        assert!(turns.take(Key::of("b")).now_or_never().is_some(), "a line is one caller's own");

        let (mut first, mut second) = (Box::pin(turns.take(key)), Box::pin(turns.take(key)));
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(had.pop());
        assert!(second.as_mut().now_or_never().is_none(), "whoever came first has the turn");
        had.extend(first.await);
        assert_eq!(had.len(), 4);
        let begun = tokio::time::Instant::now();
        assert!(second.await.is_none());
        assert_eq!(begun.elapsed(), LONGEST_WAIT);
    }

    #[tokio::test]
    async fn a_bounded_number_waits_and_nothing_is_kept_of_who_was_there() {
        let (turns, key) = (Turns::new(4), Key::of("a"));
        let mut waiting: Vec<_> = (0..4 + MOST_WAITING).map(|_| Box::pin(turns.take(key))).collect();
        let had: Vec<_> = waiting.iter_mut().filter_map(|one| one.as_mut().now_or_never()).collect();
        assert_eq!(had.len(), 4);
        assert!(turns.take(key).now_or_never().is_some_and(|turn| turn.is_none()), "refused at once");
        drop((waiting, had));
        assert!(turns.lines().is_empty());
    }
}
