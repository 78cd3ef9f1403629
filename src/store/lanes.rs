//! Places for connections, by class of work, so that no class keeps another from the database.
//!
//! Each connection in use has a place. The place is kept until PostgreSQL has answered or the connection is closed,
//! even after the connection was discarded from the pool: a COMMIT that waits for a standby can wait for hours, and so
//! does its backend. A replica therefore never has more backends than `DATABASE_MAX_CONNECTIONS`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::timing::within;

use super::deadline;
use super::failure::{self, Abort};

/// Connections that are reserved for [`Lane::Vital`].
const VITAL_CONNECTIONS: usize = 2;
/// Maximum number of connections for [`Lane::Background`].
const MAX_BACKGROUND_CONNECTIONS: usize = 2;

/// Class of work that a connection is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Work that all requests or all streams wait for: tokens, the event tail, outcomes of COMMITs, readiness,
    /// suspensions.
    Vital,
    /// Requests that read, and opening streams.
    Read,
    /// Requests that write.
    Write,
    /// Work that no request waits for: retention, mailboxes, read positions, statistics.
    Background,
}

impl Lane {
    /// All lanes.
    pub(super) const ALL: [Self; 4] = [Self::Vital, Self::Read, Self::Write, Self::Background];

    /// Label in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Vital => "vital",
            Self::Read => "read",
            Self::Write => "write",
            Self::Background => "background",
        }
    }
}

/// Places of one pool.
#[derive(Debug, Clone)]
pub(super) struct Lanes {
    all: Arc<Semaphore>,
    /// Places for all lanes but [`Lane::Vital`].
    ordinary: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Places for [`Lane::Write`] and [`Lane::Background`].
    writes: Arc<Semaphore>,
    background: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    unanswered: Arc<AtomicUsize>,
}

/// A place, which is released on drop.
#[derive(Debug)]
pub(super) struct Place {
    _permits: Vec<OwnedSemaphorePermit>,
}

/// Place of a connection that was discarded and is not closed yet.
#[derive(Debug)]
pub(super) struct Unanswered {
    _place: Place,
    count: Arc<AtomicUsize>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lanes {
    /// Divides the connections. Each lane gets at least one, and reads and writes leave one to each other.
    pub(super) fn new(connections: usize) -> Self {
        let places = |number: usize| Arc::new(Semaphore::new(number.max(1)));
        let ordinary = connections.saturating_sub(VITAL_CONNECTIONS).max(1);
        Self {
            all: places(connections),
            ordinary: places(ordinary),
            reads: places(ordinary - 1),
            writes: places(ordinary - 1),
            background: places(MAX_BACKGROUND_CONNECTIONS.min(ordinary - 1)),
            waiting: Arc::default(),
            unanswered: Arc::default(),
        }
    }

    /// Waits for a place, for [`deadline::POOL`] at most.
    pub(super) async fn place(&self, lane: Lane) -> Result<Place, Abort> {
        // Permits are taken from the narrowest semaphore to the widest by all lanes, so that no two wait for each
        // other. Background work writes, so it never takes the connections that are left to reads.
        let needed: &[&Arc<Semaphore>] = match lane {
            Lane::Vital => &[&self.all],
            Lane::Read => &[&self.reads, &self.ordinary, &self.all],
            Lane::Write => &[&self.writes, &self.ordinary, &self.all],
            Lane::Background => &[&self.background, &self.writes, &self.ordinary, &self.all],
        };
        let waiting = Waiting::begin(&self.waiting);
        let taking = async {
            let mut permits = Vec::with_capacity(needed.len());
            for places in needed {
                permits.push((*places).clone().acquire_owned().await.expect("it is never closed"));
            }
            Place { _permits: permits }
        };
        let place = within(deadline::POOL, taking).await;
        drop(waiting);
        place.map_err(|_| failure::overloaded("waiting for a database connection").into())
    }

    /// Keeps the place of a discarded connection.
    pub(super) fn unanswered(&self, place: Place) -> Unanswered {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
        Unanswered { _place: place, count: self.unanswered.clone() }
    }

    /// Returns the number of waiters, and of discarded connections that are not closed yet.
    pub(super) fn status(&self) -> (usize, usize) {
        (self.waiting.load(Ordering::Relaxed), self.unanswered.load(Ordering::Relaxed))
    }
}

/// Counts a waiter until it is dropped.
struct Waiting<'l>(&'l AtomicUsize);

impl<'l> Waiting<'l> {
    fn begin(count: &'l AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes all places that a lane gets at once.
    fn all(lanes: &Lanes, lane: Lane) -> Vec<Place> {
        std::iter::from_fn(|| lanes.place(lane).now_or_never()).map(Result::unwrap).collect()
    }

    #[tokio::test]
    async fn no_kind_of_work_takes_everything() {
        for (connections, ordinary) in [(10, 7), (5, 2), (3, 1)] {
            let lanes = Lanes::new(connections);
            let writes = all(&lanes, Lane::Write);
            assert_eq!(writes.len(), ordinary, "of {connections}");
            drop(writes);
            let reads = all(&lanes, Lane::Read);
            assert_eq!(reads.len(), ordinary, "of {connections}");
            assert!(!all(&lanes, Lane::Vital).is_empty(), "of {connections}");
        }
        let lanes = Lanes::new(10);
        let (writes, reads) = (all(&lanes, Lane::Write), all(&lanes, Lane::Read));
        assert_eq!((writes.len(), reads.len(), all(&lanes, Lane::Vital).len()), (7, 1, 2));
        assert!(all(&lanes, Lane::Background).is_empty());
    }

    #[tokio::test]
    async fn one_connection_serves_every_kind_in_turn() {
        let lanes = Lanes::new(1);
        for lane in [Lane::Vital, Lane::Read, Lane::Write, Lane::Background] {
            assert_eq!(all(&lanes, lane).len(), 1, "{lane:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_until_its_connection_is_closed() {
        let lanes = Lanes::new(1);
        let kept = lanes.unanswered(lanes.place(Lane::Write).await.unwrap());
        assert_eq!(lanes.status(), (0, 1));
        assert!(matches!(lanes.place(Lane::Vital).await, Err(Abort::Refused(_))));
        drop(kept);
        assert_eq!((lanes.status(), all(&lanes, Lane::Vital).len()), ((0, 0), 1));
    }
}
