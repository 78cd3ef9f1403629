//! Messages that arrived together share a transaction. Each is judged by itself; one that is not acceptable as it is leaves
//! no trace in the batch and is done alone afterwards, where it gets its answer.

use std::collections::HashSet;
use std::sync::Arc;

use crate::ids::ConvoId;
use crate::store::messages::{self, Appended, BatchItem};
use crate::store::{Abort, Batch, ExclusiveMany, Landing, Query, Topic};

use super::{SendMessage, Sent};

/// See the module. All messages have the same window.
#[derive(Debug)]
pub struct SendBatch {
    pub messages: Vec<Arc<SendMessage>>,
}

impl Batch for SendBatch {
    const NAME: &'static str = "sendMessages";
    /// It leaves out messages whose id is in the log, so one that an attempt without an answer has appended is not appended again.
    const STATEMENT: &'static Query = messages::BATCH;
    type Output = Sent;

    fn convos(&self) -> Vec<&ConvoId> {
        self.messages.iter().map(|send| &send.convo_id).collect()
    }

    fn topics(&self, landed: &[Landing<Sent>]) -> Vec<Topic> {
        let done = self.messages.iter().zip(landed).filter(|(_, landing)| matches!(landing, Landing::Done(_)));
        let convos: HashSet<&str> = done.map(|(send, _)| send.convo_id.as_str()).collect();
        convos.into_iter().map(Topic::from).collect()
    }

    async fn execute(&self, x: &ExclusiveMany<'_>) -> Result<Vec<Landing<Sent>>, Abort> {
        // The same request twice at once: the second waits for what the first one gets.
        let (mut ids, mut keys) = (HashSet::new(), HashSet::new());
        let unique: Vec<bool> = self.messages.iter().map(|send| is_first(send, &mut ids, &mut keys)).collect();
        let items: Vec<BatchItem<'_>> =
            self.messages.iter().zip(&unique).filter(|(_, unique)| **unique).map(|(send, _)| send.item()).collect();
        let window = self.messages.first().map_or(0, |send| send.window);
        let mut landed = messages::append_batch(x, &items, window).await?.into_iter();
        let place = |(send, unique): (&Arc<SendMessage>, &bool)| match if *unique { landed.next() } else { None } {
            Some(Appended::At(seq, received_at)) => Landing::Done(send.sent(seq, received_at, false)),
            Some(Appended::Moved) => Landing::Contended,
            Some(Appended::No) | None => Landing::Alone,
        };
        Ok(self.messages.iter().zip(&unique).map(place).collect())
    }
}

fn is_first<'a>(
    send: &'a SendMessage,
    ids: &mut HashSet<(&'a str, &'a str)>,
    keys: &mut HashSet<(&'a str, &'a str)>,
) -> bool {
    let new_id = ids.insert((send.convo_id.as_str(), send.message.id.as_str()));
    let new_key = send.once.key().is_none_or(|(key, _)| keys.insert((send.message.sender.as_str(), key)));
    new_id && new_key
}

impl SendMessage {
    fn item(&self) -> BatchItem<'_> {
        BatchItem { convo: &self.convo_id, message: &self.message, once: self.once.key() }
    }
}
