//! Metrics of the memory for bodies and replies.

use crate::metrics::{Counters, Register, Registry};

use super::Full;

/// Use of a budget.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Bodies,
    Replies,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Kind::Bodies => "bodies",
            Kind::Replies => "replies",
        }
    }
}

/// Metrics of both budgets. Cheap to clone.
#[derive(Clone)]
pub struct MemoryMetrics {
    full: Counters<2>,
}

impl MemoryMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let help =
            "Requests refused because the memory for bodies or replies is used up, by kind and by whose share it is";
        let of_kind = |kind: Kind| ["caller", "all"].map(|share| [("room", kind.label()), ("share", share)]);
        let series = [Kind::Bodies, Kind::Replies].into_iter().flat_map(of_kind);
        Self { full: registry.counters_of("memory_room_full", help, series) }
    }

    /// Counts a body or a reply for which there was no memory.
    pub(super) fn full(&self, kind: Kind, full: Full) {
        let share = match full {
            Full::Caller => "caller",
            Full::All => "all",
        };
        self.full.get_or_create(&[("room", kind.label()), ("share", share)]).inc();
    }
}
