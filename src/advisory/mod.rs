//! The serializer whose arbiter is PostgreSQL's advisory lock: queues in this replica, and workers that empty them.
//!
//! One worker runs batches of messages, one runs batches of commits, and the others run everything that waits for a lock, one conversation
//! at a time ([`workers`]). A conversation is leased to one worker at a time, so its commands keep their order of arrival. A batch of
//! several conversations takes only locks that are free. A conversation whose lock is taken elsewhere again and again is contended: it
//! gets batches of its own, which wait for the lock and delay no other conversation. Replicas that write one conversation thus take turns
//! with a batch each. A second batch of a kind begins only if the first is late: two would be half as large, and a message is the cheaper
//! the more of them share a transaction.

mod metrics;
mod queues;
mod workers;

use crate::background::Background;
use crate::batching::Queued;
use crate::store::Store;

use queues::Queues;

pub use metrics::QueueMetrics;

/// The advisory serializer of this process. Cheap to clone.
#[derive(Clone)]
pub struct Advisory {
    queues: Queues,
}

impl Advisory {
    /// Starts the workers.
    pub fn new(store: &Store, metrics: QueueMetrics, max_connections: usize, background: &Background) -> Self {
        let queues = Queues::new(metrics);
        workers::start(&queues, store, max_connections, background);
        Self { queues }
    }

    /// Queues a command, or refuses it.
    pub(crate) fn send(&self, command: Box<dyn Queued>) {
        self.queues.push(command);
    }
}
