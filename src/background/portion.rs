//! How work in the background is cut, so that nothing stops it for good.
//!
//! - It is done in units, one transaction each, bounded in rows and in bytes: what it takes on next is a [`Portion`].
//! - A unit that fails by itself, because its time is over or for whatever it
//!   meets, is tried again with half as much. One that succeeds lets the next be twice as large, up to where it began.
//! - What fails at size one is set aside (table `set_aside`): it is left out, counted, and tried again later, and the work goes on with
//!   what comes next.
//! - How far the work has come is a row that the unit moves in its own transaction, so whoever goes on begins there.
//! - What is old is decided by PostgreSQL's clock, and a replica whose own differs leaves the work to others.
//! - `background_age_seconds` says how long ago the work was last up to date, `background_set_aside` how much is left out.

/// How much a unit takes on.
#[derive(Debug, Clone)]
pub struct Portion {
    size: i64,
    most: i64,
}

impl Portion {
    /// Begins with the most.
    pub fn new(most: i64) -> Self {
        Self { size: most, most }
    }

    /// How much the next unit takes on; at least one.
    pub fn size(&self) -> i64 {
        self.size
    }

    /// The last unit was done.
    pub fn grow(&mut self) {
        self.size = (self.size * 2).min(self.most);
    }

    /// The last unit failed. False if it cannot be smaller.
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
