//! Documents that outlive the process: those of DIDs that have proved to be somebody's here, by a token.
//!
//! With them a replica that has just started lets everybody in whom the others knew, while the directory does not answer or
//! strangers use up what it may be asked. Naming a DID in a token that is not genuine keeps nothing.
//!
//! Reading and writing are done many at a time, by one task for each, so that no flood of tokens takes more than one connection for
//! either. What cannot be read in time counts as unknown, and what cannot be written is written when it is fetched the next time.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, oneshot};

use super::document::Document;
use crate::ids::Did;
use crate::store::Store;
use crate::store::did_documents::Kept;

/// Most DIDs that wait to be looked for, and as many to be written.
const MOST_WAITING: usize = 10_000;
/// Most DIDs in one statement.
const BATCH: usize = 256;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Archive {
    looking: mpsc::Sender<(Did, oneshot::Sender<Option<Kept>>)>,
    /// What is to be kept of a DID; `None`: nothing.
    writing: mpsc::Sender<(Did, Option<Kept>)>,
}

impl Archive {
    /// Starts its tasks, on the store's runtime.
    pub fn new(store: &Store) -> Self {
        let (looking, looked_for) = mpsc::channel(MOST_WAITING);
        let (writing, written) = mpsc::channel(MOST_WAITING);
        store.runtime().spawn(look_all(store.clone(), looked_for));
        store.runtime().spawn(write_all(store.clone(), written));
        Self { looking, writing }
    }

    /// What is kept of a DID's document, and when that was fetched.
    pub async fn find(&self, did: &Did) -> Option<(Document, DateTime<Utc>)> {
        let (reply, answer) = oneshot::channel();
        self.looking.try_send((did.clone(), reply)).ok()?;
        let kept = answer.await.ok()??;
        Some((Document::with_key(&kept.account_key)?, kept.fetched_at))
    }

    /// Keeps the document of a DID that has proved to be somebody's.
    pub fn keep(&self, did: &Did, document: &Document, fetched_at: DateTime<Utc>) {
        if let Some(key) = document.key() {
            let _ = self.writing.try_send((did.clone(), Some(Kept { account_key: key.to_multibase(), fetched_at })));
        }
    }

    /// Forgets a DID that the directory knows no more.
    pub fn forget(&self, did: &Did) {
        let _ = self.writing.try_send((did.clone(), None));
    }
}

async fn look_all(store: Store, mut looked_for: mpsc::Receiver<(Did, oneshot::Sender<Option<Kept>>)>) {
    let mut arrived = Vec::with_capacity(BATCH);
    while looked_for.recv_many(&mut arrived, BATCH).await > 0 {
        let dids: Vec<&Did> = arrived.iter().map(|(did, _)| did).collect();
        let found = store.did_documents(&dids).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "kept DID documents cannot be read");
            Vec::new()
        });
        let found: HashMap<String, Kept> = found.into_iter().collect();
        for (did, reply) in arrived.drain(..) {
            // Whoever asked may be gone.
            let _ = reply.send(found.get(did.as_str()).cloned());
        }
    }
}

async fn write_all(store: Store, mut written: mpsc::Receiver<(Did, Option<Kept>)>) {
    let mut arrived = Vec::with_capacity(BATCH);
    while written.recv_many(&mut arrived, BATCH).await > 0 {
        // The last word on each counts.
        let latest: HashMap<Did, Option<Kept>> = arrived.drain(..).collect();
        let kept: Vec<(&Did, &Kept)> = latest.iter().filter_map(|(did, kept)| Some((did, kept.as_ref()?))).collect();
        let gone: Vec<&Did> = latest.iter().filter(|(_, kept)| kept.is_none()).map(|(did, _)| did).collect();
        let writing = async {
            if !kept.is_empty() {
                store.keep_did_documents(&kept).await?;
            }
            if !gone.is_empty() {
                store.forget_did_documents(&gone).await?;
            }
            Ok::<_, crate::error::Error>(())
        };
        if let Err(error) = writing.await {
            tracing::debug!(%error, "DID documents cannot be kept");
        }
    }
}
