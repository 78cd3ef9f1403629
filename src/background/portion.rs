//! Units of background work, sized so that no single item stops it for good.
//!
//! - A unit is one transaction, bounded in rows and bytes. Its size is a [`Portion`].
//! - A unit that fails is retried with half the size. After a success the next unit is twice as large, up to the maximum.
//! - An item that fails at size one is set aside (table `set_aside`): it is skipped, counted and retried later.
//! - The position of the work is a row that each unit moves in its own transaction, so any replica continues from there.
//! - PostgreSQL's clock decides what is old. A replica whose clock differs leaves the work to others.
//! - `background_age_seconds` is the time since the work was last up to date, `background_set_aside` the skipped items.

/// Size of the next unit of work.
#[derive(Debug, Clone)]
pub struct Portion {
    size: i64,
    max: i64,
}

impl Portion {
    /// Starts at the maximum.
    pub fn new(max: i64) -> Self {
        Self { size: max, max }
    }

    /// Returns the size of the next unit, at least one.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// Doubles the size after a success, up to the maximum.
    pub fn grow(&mut self) {
        self.size = (self.size * 2).min(self.max);
    }

    /// Halves the size after a failure. Returns false if it is one already.
    pub fn shrink(&mut self) -> bool {
        let smaller = self.size > 1;
        self.size = (self.size / 2).max(1);
        smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_portion_halves_down_to_one_and_grows_back() {
        let mut portion = Portion::new(5);
        let mut sizes = vec![portion.size()];
        while portion.shrink() {
            sizes.push(portion.size());
        }
        assert_eq!(sizes, [5, 2, 1]);
        for size in [2, 4, 5, 5] {
            portion.grow();
            assert_eq!(portion.size(), size);
        }
    }
}
