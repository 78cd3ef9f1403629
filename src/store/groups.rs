//! The MLS groups of a conversation: the present one, those before it, and the step from one to the next.

use std::sync::Arc;

use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::{ConvoId, Did, EntryId};
use crate::mls::Suite;

use super::position::Position;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Reader, Store, epochs, welcomes};

query! {
    FIND = "groups/find" (TEXT);
    FIND_PAST = "groups/find_past" (TEXT, TEXT, INT8);
    FIND_RESET = "groups/find_reset" (TEXT, TEXT, TEXT);
    RESET = "groups/reset" (TEXT, INT8, INT8, TEXT, TEXT, INT8, TEXT, TEXT, TEXT_ARRAY, TEXT_ARRAY);
    WITHDRAW_ALL = "welcomes/withdraw_all" (TEXT);
}

/// Maximum number of conversations whose groups are cached.
const MAX_GROUPS: u64 = 100_000;

/// An MLS group of a conversation.
#[derive(Debug, Clone)]
pub struct Group {
    /// Number of the group in its conversation, from 1 on.
    pub generation: i64,
    /// Id that clients use for the group.
    pub id: String,
    pub suite: Suite,
}

/// A group that a conversation had before its present one.
#[derive(Debug)]
pub struct PastGroup {
    pub initial_epoch: i64,
    pub final_epoch: i64,
    /// Seq of the entry that began it; 0 for the first group.
    pub first_seq: i64,
    pub last_seq: i64,
}

/// Cache of conversations' groups. An entry may be a group that a reset at another replica has ended: statements compare the generation.
/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Groups(moka::future::Cache<ConvoId, Arc<Group>>);

impl Default for Groups {
    fn default() -> Self {
        Self(moka::future::Cache::new(MAX_GROUPS))
    }
}

fn group(row: &Row) -> Result<Arc<Group>, Error> {
    let suite = Suite::named(row.get("cipher_suite"))?;
    Ok(Arc::new(Group { generation: row.get("generation"), id: row.get("group_id"), suite }))
}

/// Returns the present group of a conversation.
pub(crate) async fn find(db: &impl Queries, convo: &ConvoId) -> Result<Option<Arc<Group>>, Abort> {
    Ok(db.find(&FIND, &[&convo.as_str()]).await?.as_ref().map(group).transpose()?)
}

/// The group that replaces a conversation's present one.
#[derive(Debug, Clone)]
pub struct NewGroup {
    pub id: String,
    pub suite: Suite,
    /// The epoch that it is in.
    pub epoch: i64,
    /// Id of the entry of the log that begins it.
    pub entry_id: EntryId,
}

/// Returns the generation and position of the reset by which a member has begun this group, if it is the present one.
pub(crate) async fn find_reset(
    db: &impl Queries,
    convo: &ConvoId,
    group_id: &str,
    member: &Did,
) -> Result<Option<(i64, Position)>, Abort> {
    let row = db.find(&FIND_RESET, &[&convo.as_str(), &group_id, &member.as_str()]).await?;
    Ok(row.map(|row| (row.get("generation"), Position::from(&row))))
}

/// Replaces the group of generation `prior.0` in epoch `prior.1`, with `inside` as its members, and withdraws the Welcomes into the old
/// one. Returns the new position; `None` if the group id is or was taken. The position must be locked and in this generation and epoch.
pub(crate) async fn reset(
    x: &mut Exclusive<'_>,
    prior: (i64, i64),
    new: &NewGroup,
    caller: &Did,
    inside: &[&Did],
    welcomed: &[&Did],
) -> Result<Option<Position>, Abort> {
    let dids = |dids: &[&Did]| dids.iter().map(|did| did.as_str().to_owned()).collect::<Vec<_>>();
    let (convo, generation, epoch) = (x.convo.as_str(), prior.0, prior.1);
    let (inside, welcomed) = (dids(inside), dids(welcomed));
    let params: Params<'_> = &[
        &convo,
        &generation,
        &epoch,
        &new.id,
        &new.suite.name,
        &new.epoch,
        &new.entry_id.as_str(),
        &caller.as_str(),
        &inside,
        &welcomed,
    ];
    let Some(row) = x.tx.find(&RESET, params).await? else { return Ok(None) };
    let withdrawn = x.tx.rows(&WITHDRAW_ALL, &[&convo]).await?;
    welcomes::discard(x, withdrawn.iter().map(|row| row.get("welcome_id")).collect()).await?;
    let at = Position::from(&row);
    x.at = Some(at);
    Ok(Some(at))
}

impl Store {
    /// Returns the MLS group of this id that a conversation has or had. `None`: the conversation does not exist, or never had it.
    pub async fn group(&self, convo: &ConvoId, id: &str) -> Result<Option<Arc<Group>>, Error> {
        if let Some(known) = self.groups.0.get(convo).await.filter(|known| known.id == id) {
            return Ok(Some(known));
        }
        let reader = self.reader().await?;
        let Some(present) = find(&reader, convo).await? else { return Ok(None) };
        self.groups.0.insert(convo.clone(), present.clone()).await;
        if present.id == id {
            return Ok(Some(present));
        }
        let row = reader.find(&FIND_PAST, &[&convo.as_str(), &Some(id), &None::<i64>]).await?;
        row.as_ref().map(group).transpose()
    }
}

impl Reader {
    /// Returns the cipher suite of a conversation's present group. Errors: `ConvoNotFound`.
    pub async fn suite(&self, convo: &ConvoId) -> Result<Suite, Error> {
        Ok(find(self, convo).await?.ok_or_else(epochs::not_found)?.suite)
    }

    /// Returns the group of an earlier generation.
    pub async fn past_group(&self, convo: &ConvoId, generation: i64) -> Result<Option<PastGroup>, Error> {
        let row = self.find(&FIND_PAST, &[&convo.as_str(), &None::<&str>, &Some(generation)]).await?;
        Ok(row.map(|row| PastGroup {
            initial_epoch: row.get("initial_epoch"),
            final_epoch: row.get("final_epoch"),
            first_seq: row.get("first_seq"),
            last_seq: row.get("last_seq"),
        }))
    }
}
