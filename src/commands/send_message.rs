//! A member sends an application message. It writes one row, however many members there are.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::ids::{ConvoId, Did, EntryId};
use crate::store::epochs::{self, Swap};
use crate::store::messages::{self, AppMessage};
use crate::store::{Abort, Command, Exclusive, Queries, Reader, members};

use super::refusal::{self, MadeIn};
use super::{Once, Repeatable};

/// See the module.
#[derive(Debug)]
pub struct SendMessage {
    pub convo_id: ConvoId,
    pub message: AppMessage,
    /// How many epochs the message may lag behind.
    pub window: i64,
    /// The incarnation of the server that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub once: Once,
}

/// Where a message landed, now or by the same request earlier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sent {
    pub id: EntryId,
    pub received_at: DateTime<Utc>,
    pub seq: i64,
    pub epoch: i64,
    /// It was sent before, by the same request or under the same id.
    #[serde(skip_serializing, default = "super::on_record")]
    pub repeated: bool,
}

impl Command for SendMessage {
    const NAME: &'static str = "sendMessage";
    type Output = Sent;

    fn convo(&self) -> &ConvoId {
        &self.convo_id
    }

    fn caller(&self) -> &Did {
        &self.message.sender
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Sent, Abort> {
        if let Some(earlier) = self.sent_before(x.tx()).await? {
            return Ok(earlier);
        }
        let AppMessage { sender, epoch, .. } = &self.message;
        let made_in = MadeIn { epoch: *epoch, incarnation: self.incarnation.as_deref() };
        let seq = match epochs::extend(x, *epoch, self.window).await? {
            Swap::To(at) => at.seq,
            // Another replica may have accepted this very message while this one waited for the row.
            Swap::Lost(at) => match self.sent_before(x.tx()).await? {
                Some(earlier) => return Ok(earlier),
                None => return Err(refusal::epoch_mismatch(x.tx(), &self.convo_id, sender, made_in, at).await),
            },
        };
        let Some(received_at) = messages::append_app(x, seq, &self.message).await? else {
            members::membership(x.tx(), &self.convo_id, sender).await?;
            // Not a member when the row was written, a member now: impossible while the conversation is held.
            return Err(crate::error::Error::internal("a membership appeared under the lock").into());
        };
        let sent = self.sent(seq, received_at, false);
        self.once.remember(x.tx(), &sent).await?;
        Ok(sent)
    }
}

impl SendMessage {
    pub(super) fn sent(&self, seq: i64, received_at: DateTime<Utc>, repeated: bool) -> Sent {
        Sent { id: self.message.id.clone(), received_at, seq, epoch: self.message.epoch, repeated }
    }

    /// The same message, by its idempotency key or its id: the sender may have chosen that, and an attempt that got no answer may
    /// have been committed. Only the sender's own are looked at, so neither tells anybody else anything.
    async fn sent_before(&self, db: &impl Queries) -> Result<Option<Sent>, Abort> {
        if let Some(earlier) = self.once.earlier(db).await? {
            return Ok(Some(earlier));
        }
        match messages::find_by_id(db, &self.convo_id, &self.message).await? {
            None => Ok(None),
            Some(found) if found.same => Ok(Some(self.sent(found.seq, found.created_at, true))),
            Some(_) => {
                Err(Code::IdempotencyConflict.because("this msgId was used for a different message of yours").into())
            }
        }
    }
}

impl Repeatable for SendMessage {
    type Output = Sent;

    async fn earlier(&self, db: &Reader) -> Result<Option<Sent>, Abort> {
        self.sent_before(db).await
    }

    fn is_new(sent: &Sent) -> bool {
        !sent.repeated
    }
}
