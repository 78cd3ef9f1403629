//! Metrics of tokens and DID documents.

use crate::metrics::{Counters, Register, Registry};

use super::fetch::Asker;

/// State of a DID document in the database.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeptDocument {
    Current,
    Outdated,
    Nothing,
}

impl KeptDocument {
    fn label(self) -> &'static str {
        match self {
            KeptDocument::Current => "current",
            KeptDocument::Outdated => "outdated",
            KeptDocument::Nothing => "nothing",
        }
    }
}

/// Metrics of authentication. Cheap to clone.
#[derive(Clone)]
pub struct AuthMetrics {
    authentications: Counters<1>,
    document_fetches: Counters<2>,
    documents_kept: Counters<1>,
}

impl AuthMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            authentications: r.counters("authentications", "Tokens and tickets checked, by outcome"),
            document_fetches: r.counters_of(
                "did_document_fetches",
                "Requests to hosts of DID documents, by whether the DID was known and by outcome",
                [Asker::Known, Asker::Stranger].map(|asker| [("asker", asker.label()), ("outcome", "found")]),
            ),
            documents_kept: r.counters(
                "did_documents_kept",
                "Look-ups of DIDs that were not in memory, by the state of the document in the database",
            ),
        }
    }

    /// Counts a checked token or ticket. `outcome` is `accepted` or an error's name.
    pub(super) fn authentication(&self, outcome: &'static str) {
        self.authentications.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// Counts a request to a host of DID documents.
    pub(super) fn document_fetched(&self, asker: Asker, outcome: &'static str) {
        self.document_fetches.get_or_create(&[("asker", asker.label()), ("outcome", outcome)]).inc();
    }

    /// Counts a look-up of a DID document in the database.
    pub(super) fn document_kept(&self, kept: KeptDocument) {
        self.documents_kept.get_or_create(&[("kept", kept.label())]).inc();
    }
}
