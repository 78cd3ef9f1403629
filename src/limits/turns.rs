//! How many requests of one caller are worked on at once, and how many of its large bodies come at once: a few. Clients that begin many at
//! a time have the others wait in line, in the order in which they came, so that nobody has more than those few connections to PostgreSQL
//! however many are asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::timing::{Stage, measure, within};

use super::buckets::Key;

/// Most requests of one caller that are worked on at once at one replica: as many as there are processors, between these.
const AT_ONCE: std::ops::RangeInclusive<usize> = 2..=4;
/// Most of its requests that wait.
pub const MOST_WAITING: usize = 128;
/// How long one of them waits.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// What those are told to wait for which there is no turn. When there is one is not known.
pub(super) const TOLD_WAIT: Duration = Duration::from_secs(1);

/// See [`AT_ONCE`].
pub fn at_once() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    processors.clamp(*AT_ONCE.start(), *AT_ONCE.end())
}

/// Everybody's turns at one thing. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Turns {
    at_once: usize,
    lines: Arc<Mutex<HashMap<Key, Line>>>,
}

/// One caller's requests.
#[derive(Debug)]
struct Line {
    places: Arc<Semaphore>,
    /// Those that are worked on and those that wait.
    requests: usize,
}

/// A request's turn. It is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
    _in_line: InLine,
}

/// A request in its caller's line, whether it waits or has its turn.
#[derive(Debug)]
struct InLine {
    turns: Turns,
    key: Key,
}

impl Turns {
    /// So many at once for each caller.
    pub(super) fn new(at_once: usize) -> Self {
        Self { at_once, lines: Arc::default() }
    }

    /// Waits for a turn. `None`: too many wait, or this one has waited too long.
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
        // Nothing panics while it is held.
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
