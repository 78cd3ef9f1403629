//! `admin delete`: ends a conversation as an abandoned one ends, and deletes its content at once.

use super::progress::Progress;
use super::{Admin, AdminError};
use crate::commands::DeleteConvo;
use crate::ids::ConvoId;
use crate::store::erasure::{Tally, add};

impl Admin {
    /// Removes the members of a conversation, each of which is told, and deletes its content. Retention deletes the rest later.
    pub(super) async fn delete(&self, convo: &ConvoId) -> Result<Tally, AdminError> {
        let (mut counts, mut progress, mut after) = (counts(0, 0, 0, 0), Progress::new(), 0);
        self.in_portions(async |rows| {
            let command = DeleteConvo { convo_id: convo.clone(), service: self.service.clone(), rows, after };
            let deleted = self.run(command).await?;
            add(&mut counts, self::counts(deleted.members, deleted.entries, deleted.bytes, deleted.envelopes));
            after = after.max(deleted.last);
            progress.show(|| format!("conversation {convo}: {counts:?}"));
            Ok(deleted.more)
        })
        .await?;
        Ok(counts)
    }

    /// Counts what [`Admin::delete`] would change.
    pub(super) async fn count_deletion(&self, convo: &ConvoId) -> Result<Tally, AdminError> {
        let found = self.operator.convo(convo).await?.ok_or_else(|| AdminError::NoConvo(convo.to_string()))?;
        let (entries, bytes) = self.operator.log_size(convo).await?;
        Ok(counts(found.counts["members"], entries, bytes, found.counts["envelopes"]))
    }
}

fn counts(members: i64, entries: i64, bytes: i64, envelopes: i64) -> Tally {
    [("members", members), ("entries", entries), ("bytes", bytes), ("envelopes", envelopes)]
        .map(|(name, number)| (name.to_owned(), number))
        .into()
}
