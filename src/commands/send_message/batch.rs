//! Messages that arrived together, in one statement.

use std::collections::HashSet;
use std::sync::Arc;

use crate::error::{Code, Error};
use crate::store::messages::{self, NewMessage};
use crate::store::{Abort, BatchOutcome, Batched, Cause, ExclusiveMany, Queries, Query, Refusal, Refused, epochs};

use super::super::refusal;
use super::{SendMessage, Sent, too_many_proposals};

impl Batched for SendMessage {
    const BATCH_NAME: &'static str = "sendMessage.batch";
    const STATEMENT: &'static Query = messages::SEND;

    async fn execute_batch(x: &ExclusiveMany<'_>, commands: &[Arc<Self>]) -> Result<Vec<BatchOutcome<Sent>>, Abort> {
        // The same request twice at once: the second waits for what becomes of the first. So does a member's second proposal.
        let (mut ids, mut keys, mut proposers) = (HashSet::new(), HashSet::new(), HashSet::new());
        let first: Vec<bool> = commands.iter().map(|send| send.is_first(&mut ids, &mut keys, &mut proposers)).collect();
        let messages: Vec<NewMessage<'_>> =
            commands.iter().zip(&first).filter(|(_, first)| **first).map(|(send, _)| send.new_message()).collect();
        let window = commands.first().map_or(0, |send| send.window);
        let mut appended = messages::send(x, &messages, window).await?.into_iter();
        let outcome = |(send, first): (&Arc<Self>, bool)| match if first { appended.next() } else { None } {
            Some(Ok(appended)) => BatchOutcome::Committed { output: send.sent(&appended), at: appended.at },
            Some(Err(refused)) => BatchOutcome::Refused(refused),
            None => BatchOutcome::Requeue,
        };
        Ok(commands.iter().zip(first).map(outcome).collect())
    }

    async fn refusal(&self, db: &impl Queries, refused: &Refused) -> Result<Sent, Abort> {
        if let Some(earlier) = self.sent_before(db).await? {
            return Ok(earlier);
        }
        let sender = &self.message.sender;
        Err(match (refused.refusal, refused.at) {
            (Refusal::OtherEpoch | Refusal::OtherGeneration, None) => epochs::not_found().into(),
            (Refusal::OtherEpoch | Refusal::OtherGeneration, Some(at)) => {
                refusal::epoch_mismatch(db, &self.convo_id, sender, self.origin(), at).await
            }
            (Refusal::NotMember, _) => self.not_member(db).await,
            (Refusal::IdTaken, _) => {
                Code::IdempotencyConflict.because("this msgId is already used in this conversation").into()
            }
            (Refusal::TooManyProposals, _) => too_many_proposals().into(),
            // The record of the key, or the proposal, has been deleted since.
            (Refusal::KeyKnown | Refusal::BytesKnown, _) => Abort::Again(Cause::Taken),
            (other, _) => Error::internal(format!("sendMessage was refused with {other:?}")).into(),
        })
    }
}

impl SendMessage {
    /// Returns whether the batch has no earlier message with its id or its key, and no earlier proposal of its sender.
    fn is_first<'a>(
        &'a self,
        ids: &mut HashSet<(&'a str, &'a str)>,
        keys: &mut HashSet<(&'static str, &'a str, &'a str)>,
        proposers: &mut HashSet<(&'a str, &'a str)>,
    ) -> bool {
        let (convo, sender, is_proposal) =
            (self.convo_id.as_str(), self.message.sender.as_str(), self.message.proposal_hash.is_some());
        let new_id = ids.insert((convo, self.message.id.as_str()));
        let key = self.idempotency.key();
        let new_key = key.is_none_or(|(key, _)| keys.insert((self.idempotency.method(), sender, key)));
        new_id && new_key && (!is_proposal || proposers.insert((convo, sender)))
    }
}
