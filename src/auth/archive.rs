//! DID documents stored in the database, so that they outlive the process.
//!
//! Only documents of DIDs that have authenticated here are stored. With them a replica that has just started accepts
//! the DIDs that the other replicas know, even while the directory does not answer or strangers use up the budget for
//! fetches. A token that is not genuine stores nothing.
//!
//! One task reads and one task writes, each in batches, so a flood of tokens takes at most two connections. A document
//! that cannot be read in time counts as unknown; one that cannot be written is written after its next fetch.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use super::document::Document;
use crate::background::{Background, tasks};
use crate::ids::Did;
use crate::store::Store;
use crate::store::did_documents::Kept;

/// Maximum number of DIDs that wait to be read, and of DIDs that wait to be written.
const MAX_WAITING: usize = 10_000;
/// Maximum number of DIDs in one statement.
const MAX_BATCH: usize = 256;

/// Handle of the reading and the writing task. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    reads: mpsc::Sender<(Did, oneshot::Sender<Option<Kept>>)>,
    /// Document to store for a DID; `None` deletes it.
    writes: mpsc::Sender<(Did, Option<Kept>)>,
}

impl Archive {
    /// Starts both tasks.
    pub fn new(store: &Store, background: &Background) -> Self {
        let (reads, read_requests) = mpsc::channel(MAX_WAITING);
        let (writes, write_requests) = mpsc::channel(MAX_WAITING);
        background.start(&tasks::DID_DOCUMENT_READER, read_all(store.clone(), read_requests));
        background.start(&tasks::DID_DOCUMENT_WRITER, write_all(store.clone(), write_requests));
        Self { reads, writes }
    }

    /// Returns the stored document of a DID and the time of its fetch.
    pub async fn find(&self, did: &Did) -> Option<(Document, DateTime<Utc>)> {
        let (reply, answer) = oneshot::channel();
        self.reads.try_send((did.clone(), reply)).ok()?;
        let kept = answer.await.ok()??;
        Some((Document::with_key(&kept.account_key)?, kept.fetched_at))
    }

    /// Stores the document of a DID that has authenticated.
    pub fn keep(&self, did: &Did, document: &Document, fetched_at: DateTime<Utc>) {
        if let Some(key) = document.key() {
            let _ = self.writes.try_send((did.clone(), Some(Kept { account_key: key.to_multibase(), fetched_at })));
        }
    }

    /// Deletes the document of a DID that the directory no longer knows.
    pub fn forget(&self, did: &Did) {
        let _ = self.writes.try_send((did.clone(), None));
    }
}

async fn read_all(store: Store, mut read_requests: mpsc::Receiver<(Did, oneshot::Sender<Option<Kept>>)>) {
    let mut arrived = Vec::with_capacity(MAX_BATCH);
    while read_requests.recv_many(&mut arrived, MAX_BATCH).await > 0 {
        let dids: Vec<&Did> = arrived.iter().map(|(did, _)| did).collect();
        let found = store.did_documents(&dids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "stored DID documents cannot be read");
            Vec::new()
        });
        let found: HashMap<String, Kept> = found.into_iter().collect();
        for (did, reply) in arrived.drain(..) {
            // The caller may have gone away.
            let _ = reply.send(found.get(did.as_str()).cloned());
        }
    }
}

async fn write_all(store: Store, mut write_requests: mpsc::Receiver<(Did, Option<Kept>)>) {
    let mut arrived = Vec::with_capacity(MAX_BATCH);
    while write_requests.recv_many(&mut arrived, MAX_BATCH).await > 0 {
        // The last write for each DID wins.
        let latest: HashMap<Did, Option<Kept>> = arrived.drain(..).collect();
        let kept: Vec<(&Did, &Kept)> = latest.iter().filter_map(|(did, kept)| Some((did, kept.as_ref()?))).collect();
        let gone: Vec<&Did> = latest.iter().filter(|(_, kept)| kept.is_none()).map(|(did, _)| did).collect();
        let writes = async {
            if !kept.is_empty() {
                store.keep_did_documents(&kept).await?;
            }
            if !gone.is_empty() {
                store.forget_did_documents(&gone).await?;
            }
            Ok::<_, crate::error::Error>(())
        };
        if let Err(error) = writes.await {
            tracing::debug!(%error, "DID documents cannot be stored");
        }
    }
}
