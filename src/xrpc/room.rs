//! Memory that callers share: what bodies take while they arrive and are worked on, and what replies take until they are sent.
//!
//! It is taken as bytes come, so what was only announced costs nobody anything. The first bytes of each body or reply come from a
//! part of their own, which is enough for nearly all of them: whoever fills the rest keeps large ones from others, and nothing else.
//! And nobody gets more than a quarter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::Did;

/// How much of a body or reply comes from the part for small ones.
pub const SMALL_BYTES: usize = 64 * 1024;

/// How much there is of what is shared out, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// For the first [`SMALL_BYTES`] of each body or reply.
    pub small: usize,
    /// For what is beyond them.
    pub large: usize,
}

impl Size {
    /// Most bytes of one caller.
    fn share(self) -> usize {
        (self.small + self.large) / 4
    }
}

/// The memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Room(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    size: Size,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    small: usize,
    large: usize,
    callers: HashMap<Did, Usage>,
}

/// What one caller has.
#[derive(Debug, Default)]
struct Usage {
    bytes: usize,
    /// Its bodies that are still arriving.
    arriving: usize,
}

/// Why nothing more is to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The caller has its share.
    Caller,
    /// All callers together have everything.
    Room,
}

impl Room {
    pub fn new(size: Size) -> Self {
        Self(Arc::new(Inner { size, taken: Mutex::default() }))
    }

    /// An empty share for a caller.
    pub fn share(&self, caller: &Did) -> Share {
        Share { room: self.clone(), caller: caller.clone(), bytes: 0, arriving: false }
    }

    /// The same for something that arrives only now, of which a caller may have `most` at once.
    pub fn arriving(&self, caller: &Did, most: usize) -> Result<Share, Full> {
        let mut share = self.share(caller);
        let mut taken = self.taken();
        let usage = taken.callers.entry(caller.clone()).or_default();
        if usage.arriving >= most {
            return Err(Full::Caller);
        }
        usage.arriving += 1;
        share.arriving = true;
        drop(taken);
        Ok(share)
    }

    /// Bytes that are taken now.
    pub fn bytes(&self) -> usize {
        let taken = self.taken();
        taken.small + taken.large
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Sums are changed together and by nothing that can panic in between.
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of so many bytes come from the part for small ones, and how many from the rest.
fn parts(bytes: usize) -> (usize, usize) {
    (bytes.min(SMALL_BYTES), bytes.saturating_sub(SMALL_BYTES))
}

/// What one body or reply has; it is given back when this ends.
#[derive(Debug)]
pub struct Share {
    room: Room,
    caller: Did,
    bytes: usize,
    arriving: bool,
}

impl Share {
    /// Takes what is missing to `bytes`, or nothing.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        if bytes <= self.bytes {
            return Ok(());
        }
        let ((small, large), (had_small, had_large)) = (parts(bytes), parts(self.bytes));
        let size = self.room.0.size;
        let mut taken = self.room.taken();
        let own = taken.callers.get(&self.caller).map_or(0, |usage| usage.bytes) + bytes - self.bytes;
        let (small, large) = (taken.small + small - had_small, taken.large + large - had_large);
        if own > size.share() {
            return Err(Full::Caller);
        }
        // What does not grow cannot be what is lacking.
        if (small > size.small && small > taken.small) || (large > size.large && large > taken.large) {
            return Err(Full::Room);
        }
        (taken.small, taken.large) = (small, large);
        taken.callers.entry(self.caller.clone()).or_default().bytes = own;
        drop(taken);
        self.bytes = bytes;
        Ok(())
    }

    /// It is all there.
    pub fn arrived(&mut self) {
        let room = self.room.clone();
        self.leave(&mut room.taken());
    }

    fn leave(&mut self, taken: &mut Taken) {
        if std::mem::take(&mut self.arriving)
            && let Some(usage) = taken.callers.get_mut(&self.caller)
        {
            usage.arriving -= 1;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let room = self.room.clone();
        let mut taken = room.taken();
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

    fn room() -> Room {
        Room::new(Size { small: 4 * SMALL_BYTES, large: 12 * SMALL_BYTES })
    }

    #[test]
    fn a_caller_gets_a_quarter_and_others_the_rest() {
        let room = room();
        let mut own = room.share(&caller("a"));
        assert_eq!(own.grow_to(4 * SMALL_BYTES), Ok(()));
        assert_eq!(room.share(&caller("a")).grow_to(1), Err(Full::Caller));
        assert_eq!(own.grow_to(4 * SMALL_BYTES + 1), Err(Full::Caller));
        let mut other = room.share(&caller("b"));
        assert_eq!(other.grow_to(4 * SMALL_BYTES), Ok(()));
        assert_eq!(room.bytes(), 8 * SMALL_BYTES);
        drop((own, other));
        assert_eq!(room.bytes(), 0);
        assert!(room.taken().callers.is_empty(), "nothing is kept of who was there");
    }

    #[test]
    fn small_ones_find_room_when_large_ones_have_filled_theirs() {
        let room = room();
        let mut large = Vec::new();
        for name in ["a", "b", "c"] {
            let mut share = room.share(&caller(name));
            share.grow_to(4 * SMALL_BYTES).unwrap();
            large.push(share);
        }
        let mut fourth = room.share(&caller("d"));
        fourth.grow_to(SMALL_BYTES).unwrap();
        assert_eq!(fourth.grow_to(4 * SMALL_BYTES), Ok(()), "twelve are there for large ones");
        let mut fifth = room.share(&caller("e"));
        assert_eq!(fifth.grow_to(1), Err(Full::Room), "all four small places are taken");
        large.pop();
        assert_eq!(fifth.grow_to(SMALL_BYTES), Ok(()));
        assert_eq!(fifth.grow_to(4 * SMALL_BYTES), Ok(()));
    }

    #[test]
    fn so_many_arrive_at_once_and_those_that_have_arrived_do_not_count() {
        let room = room();
        let mut first = room.arriving(&caller("a"), 2).unwrap();
        let second = room.arriving(&caller("a"), 2).unwrap();
        assert_eq!(room.arriving(&caller("a"), 2).unwrap_err(), Full::Caller);
        assert!(room.arriving(&caller("b"), 2).is_ok());
        first.arrived();
        let third = room.arriving(&caller("a"), 2).unwrap();
        drop((first, second, third));
        assert!(room.taken().callers.is_empty());
    }
}
