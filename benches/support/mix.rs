//! Pseudorandom numbers that never repeat. They are cheaper than random ones, and the same in every run.

use std::sync::atomic::{AtomicU64, Ordering};

/// The finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators). It is a bijection,
/// so different inputs have different outputs.
pub fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Returns a number that this process has not returned before.
pub fn fresh() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

/// A pseudorandom generator.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Returns a generator whose sequence differs from all others of this process.
    pub fn new() -> Self {
        Self(mix(fresh()))
    }

    /// Returns one of `0..sides`.
    pub fn throw(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(1);
        (mix(self.0) % sides as u64) as usize
    }
}
