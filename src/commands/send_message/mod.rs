//! sendMessage and submitProposal: a member sends an application message or a proposal. It writes one row, however many members there are.
//!
//! `sql/queries/messages/send_message.sql` decides whether the message is accepted, and writes it. Here is the reply where it is not.

mod batch;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::error::{Code, Error};
use crate::ids::{BlobId, ConvoId, Did, EntryId};
use crate::store::blobs::MessageBody;
use crate::store::messages::{self, AppMessage, Appended, NewMessage};
use crate::store::{Abort, BatchKind, Batched, Cause, Command, Counts, Exclusive, Queries, blobs, members};

use super::refusal::MadeIn;
use super::{BeginBody, Idempotency, Replayable};

/// An application message or a proposal to append to a conversation.
#[derive(Debug)]
pub struct SendMessage {
    pub convo_id: ConvoId,
    pub message: AppMessage,
    /// Blobs that it refers to, ascending.
    pub blobs: Vec<BlobId>,
    /// The client chose the message's id, so it recognises the message if it sends it again.
    pub has_own_id: bool,
    /// Number of epochs that an application message may lag behind.
    pub window: i64,
    /// The server's incarnation that the caller heard from last, as it says.
    pub incarnation: Option<String>,
    pub idempotency: Idempotency,
}

/// Place at which a message was accepted, now or by an earlier equal request.
#[derive(Debug, Clone, Deserialize)]
pub struct Sent {
    pub id: EntryId,
    pub received_at: DateTime<Utc>,
    pub seq: i64,
    pub epoch: i64,
    /// It was accepted before: by the same request, or under the same id.
    #[serde(default = "super::on_record")]
    pub replayed: bool,
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

    fn batch_kind(&self) -> Option<BatchKind> {
        // The statement of a batch writes no references.
        (self.blobs.is_empty() && self.message.body.is_none()).then_some(BatchKind::Messages)
    }

    fn bytes(&self) -> usize {
        self.message.ciphertext.len()
    }

    fn counts(&self, sent: &Sent) -> Counts {
        Counts { messages: u64::from(!sent.replayed && self.message.proposal_hash.is_none()), ..Counts::default() }
    }

    fn explain(&self, error: Error) -> Error {
        // A proposal is recognised by its bytes.
        match self.has_own_id || self.idempotency.has_key() || self.message.proposal_hash.is_some() {
            true => error,
            false => error.with_message_id(&self.message.id),
        }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Sent, Abort> {
        match messages::send_one(x, self.new_message(), self.window).await? {
            Ok(appended) => {
                if let Some(body) = &self.message.body {
                    blobs::store_body(x, appended.at.seq, body).await?;
                }
                if !self.blobs.is_empty() {
                    blobs::refer(x, appended.at.seq, &self.blobs).await?;
                }
                Ok(self.sent(&appended))
            }
            Err(refused) => self.refusal(x.tx(), &refused).await,
        }
    }
}

impl SendMessage {
    /// Returns the transaction that begins its body with this id.
    pub fn begin_body(&self, id: BlobId) -> BeginBody {
        let AppMessage { id: message, sender, generation, epoch, ciphertext, .. } = &self.message;
        BeginBody(MessageBody {
            id,
            bytes: ciphertext.len() as i64,
            convo: self.convo_id.clone(),
            message: message.clone(),
            sender: sender.clone(),
            generation: *generation,
            epoch: *epoch,
            window: self.window,
            key: self.idempotency.key().map(|(key, _)| key.to_owned()),
        })
    }

    fn new_message(&self) -> NewMessage<'_> {
        NewMessage { convo: &self.convo_id, message: &self.message, idempotency: self.idempotency.key() }
    }

    fn origin(&self) -> MadeIn<'_> {
        MadeIn {
            generation: self.message.generation,
            epoch: self.message.epoch,
            incarnation: self.incarnation.as_deref(),
        }
    }

    fn sent(&self, appended: &Appended) -> Sent {
        let AppMessage { id, epoch, .. } = &self.message;
        let Appended { at, received_at } = *appended;
        Sent { id: id.clone(), received_at, seq: at.seq, epoch: *epoch, replayed: false }
    }

    /// Returns where the same message was accepted before, by its idempotency key, its id or a proposal's bytes: the sender may have chosen
    /// the id, and an attempt without a reply may have been committed. Only the sender's own entries are read.
    async fn sent_before(&self, db: &impl Queries) -> Result<Option<Sent>, Abort> {
        if let Some(earlier) = self.idempotency.replay(db).await? {
            return Ok(Some(earlier));
        }
        if let Some(hash) = &self.message.proposal_hash {
            let AppMessage { sender, epoch, .. } = &self.message;
            let found = messages::find_proposal(db, &self.convo_id, (*epoch, hash), sender).await?;
            return Ok(found.map(|(id, seq, received_at)| Sent {
                id,
                received_at,
                seq,
                epoch: *epoch,
                replayed: true,
            }));
        }
        match messages::find_by_id(db, &self.convo_id, &self.message, &self.blobs).await? {
            None => Ok(None),
            Some(found) if found.same => {
                let AppMessage { id, epoch, .. } = &self.message;
                let (received_at, seq) = (found.created_at, found.seq);
                Ok(Some(Sent { id: id.clone(), received_at, seq, epoch: *epoch, replayed: true }))
            }
            Some(_) => {
                Err(Code::IdempotencyConflict.because("this msgId was used for a different message of yours").into())
            }
        }
    }

    /// Returns the error of a caller that is not an active member. If it is one by now, the message can be sent again.
    async fn not_member(&self, db: &impl Queries) -> Abort {
        match members::membership(db, &self.convo_id, &self.message.sender).await {
            Ok(_) => Abort::Again(Cause::Taken),
            Err(abort) => abort,
        }
    }
}

/// Returns the error for a member that has as many proposals in this epoch as it may have.
pub(super) fn too_many_proposals() -> Error {
    let most = messages::MAX_PROPOSALS;
    Code::TooManyProposals.because(format!("you have {most} proposals in this epoch; commit them before you send more"))
}

impl Replayable for SendMessage {
    type Output = Sent;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Sent>, Abort> {
        self.sent_before(db).await
    }

    fn is_new(sent: &Sent) -> bool {
        !sent.replayed
    }
}
