//! Topics that committed transactions affect, for notifications to the event tails of all replicas.
//!
//! Only the write path adds topics, after COMMIT. The set is bounded and carries no data: it only says that reading is
//! worthwhile, and a replica that polls finds the same rows.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::ids::{ConvoId, Did};

/// Maximum number of waiting topics. Beyond it, the set stands for all topics.
pub const MAX_TOPICS: usize = 400;

/// Hash of a conversation's id or of a DID, so that it reveals neither. A collision causes a needless wake-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Topic(pub u64);

impl From<&str> for Topic {
    fn from(name: &str) -> Self {
        let digest = Sha256::digest(name);
        Self(u64::from_be_bytes(digest[..8].try_into().expect("a SHA-256 has 32 bytes")))
    }
}

impl From<&ConvoId> for Topic {
    fn from(convo: &ConvoId) -> Self {
        convo.as_str().into()
    }
}

impl From<&Did> for Topic {
    fn from(did: &Did) -> Self {
        did.as_str().into()
    }
}

/// Topics that transactions affect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affected {
    Topics(Vec<Topic>),
    /// More topics than can be listed.
    All,
}

/// Topics that wait to be published. Cheap to clone; clones share the set.
#[derive(Clone, Default)]
pub struct ChangeSet(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// One topic more than [`MAX_TOPICS`] stands for all topics.
    waiting: Mutex<HashSet<Topic>>,
    arrived: Notify,
}

impl ChangeSet {
    /// Adds the topics of a committed transaction. Never waits.
    pub(super) fn add_topics(&self, topics: impl IntoIterator<Item = Topic>) {
        let mut topics = topics.into_iter().peekable();
        if topics.peek().is_none() {
            return;
        }
        {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            for topic in topics {
                if waiting.len() > MAX_TOPICS {
                    break;
                }
                waiting.insert(topic);
            }
        }
        self.0.arrived.notify_one();
    }

    /// Adds topics that were taken from another set.
    pub(crate) fn add(&self, affected: Affected) {
        match affected {
            Affected::Topics(topics) => self.add_topics(topics),
            Affected::All => self.add_topics((0..=MAX_TOPICS as u64).map(Topic)),
        }
    }

    /// Waits for topics and takes all that have been added. It has one caller.
    pub async fn take(&self) -> Affected {
        loop {
            let taken = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            match taken.len() {
                0 => self.0.arrived.notified().await,
                1..=MAX_TOPICS => return Affected::Topics(taken.into_iter().collect()),
                _ => return Affected::All,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_topics_are_taken_together_and_too_many_of_them_are_all() {
        let changes = ChangeSet::default();
        changes.add_topics(["a".into(), "b".into(), "a".into()]);
        changes.add_topics(["b".into()]);
        let Affected::Topics(mut topics) = changes.take().await else { panic!("two can be named") };
        topics.sort_by_key(|topic| topic.0);
        let mut both: [Topic; 2] = ["a".into(), "b".into()];
        both.sort_by_key(|topic| topic.0);
        assert_eq!(topics, both);
        changes.add_topics((0..MAX_TOPICS as u64).map(Topic));
        assert!(matches!(changes.take().await, Affected::Topics(topics) if topics.len() == MAX_TOPICS));
        changes.add_topics((0..=MAX_TOPICS as u64).map(Topic));
        assert_eq!(changes.take().await, Affected::All);
        assert!(tokio::time::timeout(std::time::Duration::ZERO, changes.take()).await.is_err(), "nothing is left");
    }
}
