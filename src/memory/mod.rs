//! Memory that requests share: a budget for bodies while they arrive and are processed, and one for replies until they are sent.
//!
//! A body or reply reserves memory as its bytes come; an announced length reserves nothing. The first [`SMALL_BYTES`] of each come
//! from a part of their own, which suffices for nearly all of them. So a caller that fills the other part delays large requests
//! only. No caller gets more than a quarter of a budget. [`LargeWork`] limits how many large ones are processed at a time.

mod bodies;
mod large_work;
mod metrics;
mod process;
mod replies;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::Did;

pub use bodies::{BodyMemory, MAX_ARRIVING};
pub use large_work::{LARGE, LargeWork};
pub use metrics::MemoryMetrics;
pub use process::ProcessMemory;
pub use replies::ReplyMemory;

/// Bytes of all bodies and replies at most.
pub const MAX_BYTES: usize = bodies::BODIES.bytes() + replies::REPLIES.bytes();

/// Bytes of each body or reply that come from the part for small ones.
pub const SMALL_BYTES: usize = 64 * 1024;

/// Capacity of a budget, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// For the first [`SMALL_BYTES`] of each body or reply.
    pub small: usize,
    /// For the bytes beyond them.
    pub large: usize,
}

impl Capacity {
    /// Most bytes of all callers.
    const fn bytes(self) -> usize {
        self.small + self.large
    }

    /// Most bytes of one caller.
    fn share(self) -> usize {
        self.bytes() / 4
    }
}

/// Memory that callers share. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: Capacity,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    small: usize,
    large: usize,
    callers: HashMap<Did, Usage>,
}

/// Usage of one caller.
#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    /// Number of its bodies that are still arriving.
    arriving: usize,
}

/// The limit that a reservation would exceed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The limit of the caller.
    Caller,
    /// The limit of all callers together.
    All,
}

impl MemoryBudget {
    pub fn new(capacity: Capacity) -> Self {
        Self(Arc::new(Inner { capacity, taken: Mutex::default() }))
    }

    /// Returns an empty reservation for a caller.
    pub fn reservation(&self, caller: &Did) -> Reservation {
        Reservation { budget: self.clone(), caller: caller.clone(), bytes: 0, arriving: false }
    }

    /// Returns an empty reservation for a body that is about to arrive. A caller may have `most` of these at once.
    pub fn arriving(&self, caller: &Did, most: usize) -> Result<Reservation, Full> {
        let mut reservation = self.reservation(caller);
        let mut taken = self.taken();
        let usage = taken.callers.entry(caller.clone()).or_default();
        if usage.arriving >= most {
            return Err(Full::Caller);
        }
        usage.arriving += 1;
        reservation.arriving = true;
        drop(taken);
        Ok(reservation)
    }

    /// Bytes that are reserved now.
    pub fn bytes(&self) -> usize {
        let taken = self.taken();
        taken.small + taken.large
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Sums are changed together and by nothing that can panic in between.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits a number of bytes into those from the part for small ones and those from the other part.
fn parts(bytes: usize) -> (usize, usize) {
    (bytes.min(SMALL_BYTES), bytes.saturating_sub(SMALL_BYTES))
}

/// Memory reserved for one body or reply. Dropping it releases the memory.
#[derive(Debug)]
pub struct Reservation {
    budget: MemoryBudget,
    caller: Did,
    bytes: usize,
    arriving: bool,
}

impl Reservation {
    /// Grows to `bytes`, or changes nothing.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let ((small, large), (had_small, had_large)) = (parts(bytes), parts(self.bytes));
        let capacity = self.budget.0.capacity;
        let mut taken = self.budget.taken();
        let own = taken.callers.get(&self.caller).map_or(0, |usage| usage.bytes) + bytes - self.bytes;
        let (small, large) = (taken.small + small - had_small, taken.large + large - had_large);
        if own > capacity.share() {
            return Err(Full::Caller);
        }
        // A part that does not grow is not the one that is full.
        if (small > capacity.small && small > taken.small) || (large > capacity.large && large > taken.large) {
            return Err(Full::All);
        }
        (taken.small, taken.large) = (small, large);
        taken.callers.entry(self.caller.clone()).or_default().bytes = own;
        drop(taken);
        self.bytes = bytes;
        Ok(())
    }

    /// Notes that the body has arrived completely.
    pub fn arrived(&mut self) {
        let budget = self.budget.clone();
        self.leave(&mut budget.taken());
    }

    fn leave(&mut self, taken: &mut Taken) {
        if std::mem::take(&mut self.arriving)
            && let Some(usage) = taken.callers.get_mut(&self.caller)
        {
            usage.arriving -= 1;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let budget = self.budget.clone();
        let mut taken = budget.taken();
        self.leave(&mut taken);
        let (small, large) = parts(self.bytes);
        taken.small -= small;
        taken.large -= large;
        if let Entry::Occupied(mut usage) = taken.callers.entry(self.caller.clone()) {
            usage.get_mut().bytes -= self.bytes;
            if usage.get().bytes == 0 && usage.get().arriving == 0 {
                usage.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(name: &str) -> Did {
        format!("did:plc:{name}").parse().unwrap()
    }

    fn budget() -> MemoryBudget {
        MemoryBudget::new(Capacity { small: 4 * SMALL_BYTES, large: 12 * SMALL_BYTES })
    }

    #[test]
    fn a_caller_gets_a_quarter_and_others_the_rest() {
        let budget = budget();
        let mut own = budget.reservation(&caller("a"));
        assert_eq!(own.grow_to(4 * SMALL_BYTES), Ok(()));
        assert_eq!(budget.reservation(&caller("a")).grow_to(1), Err(Full::Caller));
        assert_eq!(own.grow_to(4 * SMALL_BYTES + 1), Err(Full::Caller));
        let mut other = budget.reservation(&caller("b"));
        assert_eq!(other.grow_to(4 * SMALL_BYTES), Ok(()));
        assert_eq!(budget.bytes(), 8 * SMALL_BYTES);
        drop((own, other));
        assert_eq!(budget.bytes(), 0);
        assert!(budget.taken().callers.is_empty(), "a caller without reservations is forgotten");
    }

    #[test]
    fn small_ones_get_memory_when_large_ones_have_filled_their_part() {
        let budget = budget();
        let mut large = Vec::new();
        for name in ["a", "b", "c"] {
            let mut reservation = budget.reservation(&caller(name));
            reservation.grow_to(4 * SMALL_BYTES).unwrap();
            large.push(reservation);
        }
        let mut fourth = budget.reservation(&caller("d"));
        fourth.grow_to(SMALL_BYTES).unwrap();
        assert_eq!(fourth.grow_to(4 * SMALL_BYTES), Ok(()), "twelve units are there for large ones");
        let mut fifth = budget.reservation(&caller("e"));
        assert_eq!(fifth.grow_to(1), Err(Full::All), "all four small places are taken");
        large.pop();
        assert_eq!(fifth.grow_to(SMALL_BYTES), Ok(()));
        assert_eq!(fifth.grow_to(4 * SMALL_BYTES), Ok(()));
    }

    #[test]
    fn a_caller_has_a_limited_number_of_arriving_bodies() {
        let budget = budget();
        let mut first = budget.arriving(&caller("a"), 2).unwrap();
        let second = budget.arriving(&caller("a"), 2).unwrap();
        assert_eq!(budget.arriving(&caller("a"), 2).unwrap_err(), Full::Caller);
        assert!(budget.arriving(&caller("b"), 2).is_ok());
        first.arrived();
        let third = budget.arriving(&caller("a"), 2).unwrap();
        drop((first, second, third));
        assert!(budget.taken().callers.is_empty());
    }
}
