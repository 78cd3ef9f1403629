//! Limits of uploads and downloads in progress. Each holds a connection to the object storage and some buffers for as long as its client
//! takes, so one caller has a few of them at a time, and all callers together have a number. Further ones are refused at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Code, Error};

use super::buckets::Key;
use super::metrics::LimitMetrics;

/// Most uploads at once, of all callers and of one.
pub const MAX_UPLOADS: usize = 128;
pub const MAX_UPLOADS_OF_ONE: usize = 4;
/// Most downloads at once, of all callers and of one. One upload has several readers.
pub const MAX_DOWNLOADS: usize = 256;
pub const MAX_DOWNLOADS_OF_ONE: usize = 8;

/// Kind of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    Upload,
    Download,
}

impl Transfer {
    /// All kinds.
    pub(super) const ALL: [Self; 2] = [Self::Upload, Self::Download];

    /// Label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }

    /// Most at once, of all callers and of one.
    fn most(self) -> (usize, usize) {
        match self {
            Self::Upload => (MAX_UPLOADS, MAX_UPLOADS_OF_ONE),
            Self::Download => (MAX_DOWNLOADS, MAX_DOWNLOADS_OF_ONE),
        }
    }
}

/// Transfers of both kinds in progress. Cheap to clone.
#[derive(Clone)]
pub(super) struct Transfers {
    open: Arc<[Mutex<Open>; Transfer::ALL.len()]>,
    metrics: LimitMetrics,
}

/// Transfers of one kind in progress.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    callers: HashMap<Key, usize>,
}

/// A transfer in progress. It ends when this is dropped.
pub struct OpenTransfer {
    transfers: Transfers,
    kind: Transfer,
    key: Key,
}

impl Transfers {
    pub(super) fn new(metrics: LimitMetrics) -> Self {
        Self { open: Arc::default(), metrics }
    }

    /// Begins a transfer of a caller.
    ///
    /// Errors: `RateLimitExceeded` if the caller has its share, `Overloaded` if there are too many in all.
    pub(super) fn begin(&self, kind: Transfer, key: Key) -> Result<OpenTransfer, Error> {
        let (most, most_of_one) = kind.most();
        let mut open = self.open(kind);
        let own = open.callers.get(&key).copied().unwrap_or_default();
        let label = kind.label();
        if own >= most_of_one {
            self.metrics.transfer_refused(kind, "caller");
            return Err(Code::RateLimitExceeded.because(format!(
                "you have {own} {label}s in progress; begin the next one when one of them has ended"
            )));
        }
        if open.all >= most {
            self.metrics.transfer_refused(kind, "all");
            return Err(Code::Overloaded.because(format!("too many {label}s are in progress; nothing was changed")));
        }
        open.all += 1;
        open.callers.insert(key, own + 1);
        self.metrics.transfers(kind, open.all);
        Ok(OpenTransfer { transfers: self.clone(), kind, key })
    }

    fn open(&self, kind: Transfer) -> MutexGuard<'_, Open> {
        // No code panics while it holds this lock.
        self.open[kind as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenTransfer {
    fn drop(&mut self) {
        let mut open = self.transfers.open(self.kind);
        open.all -= 1;
        if let Entry::Occupied(mut own) = open.callers.entry(self.key) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
        self.transfers.metrics.transfers(self.kind, open.all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    #[test]
    fn one_caller_has_a_few_and_all_callers_have_a_number_of_each_kind() {
        let transfers = Transfers::new(LimitMetrics::register(&mut Registry::default()));
        for kind in Transfer::ALL {
            let (most, most_of_one) = kind.most();
            let key = |n: usize| Key::of(&format!("did:plc:{}", n / most_of_one));
            let mut begun: Vec<_> = (0..most).map(|n| transfers.begin(kind, key(n)).unwrap()).collect();
            let refused = |key| transfers.begin(kind, key).map(drop).unwrap_err();
            assert_eq!(refused(key(0)).code, Code::RateLimitExceeded);
            let full = refused(key(most));
            assert_eq!((full.code, full.details.retry_after_ms), (Code::Overloaded, Some(1_000)));
            drop(begun.pop());
            assert_eq!(refused(key(0)).code, Code::RateLimitExceeded);
            let next = transfers.begin(kind, key(most)).unwrap();
            drop((begun, next));
            assert!(transfers.open(kind).callers.is_empty() && transfers.open(kind).all == 0);
        }
    }
}
