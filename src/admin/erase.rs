//! `admin erase`: removes a person from all conversations, and deletes what is stored of it, except what docs/operations.md names.

use super::progress::Progress;
use super::{Admin, AdminError};
use crate::commands::{EraseMailboxes, EraseMember, ErasePerson};
use crate::ids::{ConvoId, Did};
use crate::store::erasure::{Tally, add};

impl Admin {
    /// Erases a person: its mailboxes, then one conversation after the other, then the rest, and at last the content of conversations
    /// that have ended, with it as the last member or before.
    pub(super) async fn erase(&self, did: &Did) -> Result<Tally, AdminError> {
        let mut progress = Progress::new();
        let mut counts = self.store.transact(EraseMailboxes { did: did.clone() }).await?;
        let (mut after, mut over) = (String::new(), Vec::new());
        loop {
            let page = self.operator.person_convos(did, &after).await?;
            let Some(last) = page.last() else { break };
            last.convo.as_str().clone_into(&mut after);
            for convo in page {
                if self.erase_from(did, &convo.convo, &mut counts).await? {
                    over.push(convo.convo);
                }
                progress.show(|| format!("{did}: {counts:?}"));
            }
        }
        self.in_portions(async |rows| {
            let erased = self.store.transact(ErasePerson { did: did.clone(), rows }).await?;
            add(&mut counts, erased.counts);
            progress.show(|| format!("{did}: {counts:?}"));
            Ok(erased.more)
        })
        .await?;
        for convo in over {
            let deleted = self.delete(&convo).await?;
            add_content(&mut counts, deleted["entries"], deleted["bytes"]);
        }
        counts.retain(|_, number| *number > 0);
        Ok(counts)
    }

    /// Erases a person from one conversation, and returns whether that has ended.
    async fn erase_from(&self, did: &Did, convo: &ConvoId, counts: &mut Tally) -> Result<bool, AdminError> {
        let mut over = false;
        self.in_portions(async |rows| {
            let erased = self.run(EraseMember { convo_id: convo.clone(), did: did.clone(), rows }).await?;
            add(counts, erased.counts);
            over = erased.over;
            Ok(erased.more)
        })
        .await?;
        Ok(over)
    }

    /// Counts what [`Admin::erase`] would change.
    pub(super) async fn count_erasure(&self, did: &Did) -> Result<Tally, AdminError> {
        let (mut counts, mut after) = (self.operator.person(did).await?.counts, String::new());
        loop {
            let page = self.operator.person_convos(did, &after).await?;
            let Some(last) = page.last() else { break };
            last.convo.as_str().clone_into(&mut after);
            for convo in page {
                add(&mut counts, convo.found.counts);
                let ended = [("conversations", convo.active), ("endedConversations", convo.is_last)];
                add(&mut counts, ended.map(|(name, is_so)| (name.to_owned(), is_so.into())).into());
                if convo.is_last || convo.over {
                    let (entries, bytes) = self.operator.log_size(&convo.convo).await?;
                    add_content(&mut counts, entries, bytes);
                }
            }
        }
        counts.retain(|_, number| *number > 0);
        Ok(counts)
    }
}

/// Adds what was deleted of conversations that have ended.
fn add_content(counts: &mut Tally, entries: i64, bytes: i64) {
    add(counts, [("entries".to_owned(), entries), ("bytes".to_owned(), bytes)].into());
}
