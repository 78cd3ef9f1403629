//! The in-process serializer: one actor per active conversation, kept for comparison with the advisory lock.
//!
//! An actor takes no lock. It remembers where its conversation stands and writes by compare-and-swap on that; when another
//! replica has written, the swap loses, the actor learns the new position and tries again. So replicas of both kinds may run
//! side by side. What it remembers is for its own writes; readers ask the database.

mod conversation;
mod mailbox;
mod metrics;
mod registry;

#[cfg(test)]
mod tests;

pub use metrics::ActorMetrics;
pub use registry::{Limits, Registry};
