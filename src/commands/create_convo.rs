//! Makes a conversation with its first members, their Welcome and their key packages, or none of it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::error::Code;
use crate::ids::{ConvoId, Did};
use crate::store::convos::{self, NewConvo};
use crate::store::{Abort, Command, Exclusive, Position, Reader, members};

use super::{Invitation, Once, Repeatable};

/// See the module.
#[derive(Debug)]
pub struct CreateConvo {
    /// The id that it gets if it is new.
    pub id: ConvoId,
    pub new: NewConvo,
    /// Without the creator, without duplicates.
    pub initial_members: Vec<Did>,
    pub invitation: Invitation,
    pub once: Once,
}

/// What was made, now or by the same request earlier.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Created {
    pub id: ConvoId,
    pub created_at: DateTime<Utc>,
    /// It was made before, by the same request.
    #[serde(skip_serializing, default = "super::on_record")]
    pub repeated: bool,
}

impl Command for CreateConvo {
    const NAME: &'static str = "createConvo";
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

    async fn execute(&self, x: &mut Exclusive<'_>) -> Result<Created, Abort> {
        if let Some(earlier) = self.once.earlier(x.tx()).await? {
            return Ok(earlier);
        }
        let Some(created_at) = convos::insert(x, &self.new).await? else {
            // Whoever took it may be this very request, sent twice at once: it has committed by now.
            let earlier = self.once.earlier(x.tx()).await?;
            return earlier.ok_or_else(|| Code::ConvoAlreadyExists.because("this groupId is taken").into());
        };
        let at = Position { epoch: self.new.epoch, seq: 0 };
        let members: Vec<&Did> = std::iter::once(&self.new.creator).chain(&self.initial_members).collect();
        members::join(x, &members, at, &self.new.creator, self.invitation.welcome.is_some()).await?;
        self.invitation.deliver(x, &self.new.creator, self.new.epoch).await?;
        let created = Created { id: self.id.clone(), created_at, repeated: false };
        self.once.remember(x.tx(), &created).await?;
        Ok(created)
    }
}

impl Repeatable for CreateConvo {
    type Output = Created;

    async fn earlier(&self, db: &Reader) -> Result<Option<Created>, Abort> {
        self.once.earlier(db).await
    }

    fn is_new(created: &Created) -> bool {
        !created.repeated
    }
}
