//! The in-process serializer: one actor per active conversation, kept for comparison with the advisory lock.
//!
//! An actor takes no lock. It remembers where its conversation stands and writes by compare-and-swap on that. When another replica has
//! written, the swap fails, and the actor reads the new position and tries again. So replicas of both serializers may run side by side.
//! The remembered position is for the actor's own writes; readers ask the database.

mod conversation;
mod metrics;
mod registry;

#[cfg(test)]
mod tests;

pub use metrics::ActorMetrics;
pub use registry::{Limits, Registry};
