//! createConvo: creates a conversation with its first members, their Welcome and their key packages, or none of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did};
use crate::mls::GroupInfo;
use crate::store::convos::{self, NewConvo};
use crate::store::{Abort, Command, Counts, Exclusive, Position, Queries, group_infos, members};

use super::{Idempotency, Invitation, Replayable};

/// A conversation to create.
#[derive(Debug)]
pub struct CreateConvo {
    /// The id that it gets if it is new.
    pub id: ConvoId,
    pub new: NewConvo,
    /// Without the creator, without duplicates.
    pub initial_members: Vec<Did>,
    pub invitation: Invitation,
    /// GroupInfo of the first epoch, signed by the creator.
    pub group_info: Option<GroupInfo>,
    pub idempotency: Idempotency,
}

/// A conversation that was created, now or by an earlier equal request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created {
    pub id: ConvoId,
    pub created_at: DateTime<Utc>,
    /// It was created before, by an equal request.
    #[serde(skip_serializing, default = "super::on_record")]
    pub replayed: bool,
}

impl Command for CreateConvo {
    const NAME: &'static str = "createConvo";
    const CREATES: bool = true;
    type Output = Created;

    fn convo(&self) -> &ConvoId {
        &self.id
    }

    fn caller(&self) -> &Did {
        &self.new.creator
    }

    fn affected(&self) -> Vec<&Did> {
        std::iter::once(&self.new.creator).chain(&self.initial_members).collect()
    }

    fn counts(&self, created: &Created) -> Counts {
        match created.replayed {
            true => Counts::default(),
            false => Counts { groups: 1, members_added: 1 + self.initial_members.len(), ..Counts::default() },
        }
    }

    fn explain(&self, error: Error) -> Error {
        match self.idempotency.has_key() {
            true => error,
            false => error.with_retry_hint("send the same request again: ConvoAlreadyExists says that it was done"),
        }
    }

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Created, Abort> {
        if let Some(earlier) = self.idempotency.replay(x.tx()).await? {
            return Ok(earlier);
        }
        let Some(created_at) = convos::insert(x, &self.new).await? else {
            // An equal request, sent at the same time, may have taken it. It has committed by now.
            let earlier = self.idempotency.replay(x.tx()).await?;
            return earlier.ok_or_else(|| Code::ConvoAlreadyExists.because("this groupId is taken").into());
        };
        let at = Position { epoch: self.new.epoch, seq: 0 };
        let members: Vec<&Did> = std::iter::once(&self.new.creator).chain(&self.initial_members).collect();
        members::join(x, &members, at, &self.new.creator, self.invitation.welcome.is_some()).await?;
        self.invitation.deliver(x, &self.new.creator, 1, self.new.epoch).await?;
        if let Some(group_info) = &self.group_info {
            group_infos::replace(x, group_info, &self.new.creator).await?;
        }
        let created = Created { id: self.id.clone(), created_at, replayed: false };
        self.idempotency.record(x.tx(), &created).await?;
        Ok(created)
    }
}

impl Replayable for CreateConvo {
    type Output = Created;

    async fn replay(&self, db: &impl Queries) -> Result<Option<Created>, Abort> {
        self.idempotency.replay(db).await
    }

    fn is_new(created: &Created) -> bool {
        !created.replayed
    }
}
