//! Metrics of the blob store.

use std::time::Duration;

use crate::metrics::{Buckets, Counters, Histograms, Register, Registry};

/// What the store is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Writes an object piece by piece.
    Write,
    /// Writes an object at once.
    Put,
    /// Opens an object, and sends its bytes.
    Read,
    Join,
    Size,
    Delete,
    /// Lists one page of objects.
    List,
}

impl Operation {
    const ALL: [Self; 7] = [Self::Write, Self::Put, Self::Read, Self::Join, Self::Size, Self::Delete, Self::List];

    /// Value of the label, and name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Put => "put",
            Self::Read => "read",
            Self::Join => "join",
            Self::Size => "size",
            Self::Delete => "delete",
            Self::List => "list",
        }
    }
}

/// How an operation ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    Failed,
    /// The caller has stopped it, such as for a client that has hung up.
    Abandoned,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Done, Self::Failed, Self::Abandoned];

    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// Metrics of the blob store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ObjectMetrics {
    operations: Counters<2>,
    seconds: Histograms<1>,
    bytes: Counters<1>,
}

impl ObjectMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        let series = Operation::ALL.into_iter().flat_map(|operation| {
            Outcome::ALL.map(|outcome| [("operation", operation.name()), ("outcome", outcome.name())])
        });
        Self {
            operations: r.counters_of("blob_store_operations", "Operations of the blob store, by outcome", series),
            seconds: r.seconds_by(
                "blob_store_operation_duration",
                "Time of an operation of the blob store: of a read until it begins, of a write until it is durable, with the pace of the client",
                Buckets::COARSE,
            ),
            bytes: r.counters_of(
                "blob_store_bytes",
                "Bytes of objects that were written to the blob store (in) and read from it (out)",
                ["in", "out"].map(|direction| [("direction", direction)]),
            ),
        }
    }

    /// Counts the end of an operation.
    pub(super) fn ended(&self, operation: Operation, outcome: Outcome) {
        self.operations.get_or_create(&[("operation", operation.name()), ("outcome", outcome.name())]).inc();
    }

    /// Records the time of an operation.
    pub(super) fn took(&self, operation: Operation, time: Duration) {
        self.seconds.get_or_create(&[("operation", operation.name())]).observe(time.as_secs_f64());
    }

    /// Counts bytes on the way to the store.
    pub(super) fn bytes_in(&self, bytes: usize) {
        self.bytes.get_or_create(&[("direction", "in")]).inc_by(bytes as u64);
    }

    /// Counts bytes that the store has sent.
    pub(super) fn bytes_out(&self, bytes: usize) {
        self.bytes.get_or_create(&[("direction", "out")]).inc_by(bytes as u64);
    }
}
