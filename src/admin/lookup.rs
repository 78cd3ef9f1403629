//! `admin convo` and `admin person`: what is stored, in numbers, sizes and positions, without content.

use serde_json::{Value, json};

use super::{Admin, AdminError};
use crate::ids::{ConvoId, Did};
use crate::store::erasure::{Tally, add};

/// Most conversations that the look-up of a person lists. All are counted.
const MAX_LISTED: usize = 1_000;

impl Admin {
    /// Returns what is stored of a conversation.
    pub(super) async fn look_up_convo(&self, convo: &ConvoId, view: &mut Value) -> Result<Tally, AdminError> {
        let found = self.operator.convo(convo).await?.ok_or_else(|| AdminError::NoConvo(convo.to_string()))?;
        let (entries, bytes) = self.operator.log_size(convo).await?;
        let mut counts = found.counts;
        add(&mut counts, Tally::from([("entries".to_owned(), entries), ("bytes".to_owned(), bytes)]));
        *view = found.view;
        view["counts"] = json!(counts);
        Ok(counts)
    }

    /// Returns what is stored of a person, and of it in its conversations.
    pub(super) async fn look_up_person(&self, did: &Did, view: &mut Value) -> Result<Tally, AdminError> {
        let person = self.operator.person(did).await?;
        let (mut counts, mut convos, mut after) = (person.counts, Vec::new(), String::new());
        loop {
            let page = self.operator.person_convos(did, &after).await?;
            let Some(last) = page.last() else { break };
            last.convo.as_str().clone_into(&mut after);
            for convo in page {
                let kind = if convo.active { "conversations" } else { "formerConversations" };
                add(&mut counts, convo.found.counts);
                add(&mut counts, Tally::from([(kind.to_owned(), 1)]));
                if convos.len() < MAX_LISTED {
                    convos.push(convo.found.view);
                }
            }
        }
        *view = person.view;
        view["conversations"] = json!(convos);
        view["counts"] = json!(counts);
        Ok(counts)
    }
}
