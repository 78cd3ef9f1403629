//! GroupInfos: the newest one of each conversation, and the requests for one.

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, ServerIncarnation};
use crate::mls::{GroupInfo, MAX_MLS_BYTES};

use super::query::query;
use super::session::Queries;
use super::{Abort, Exclusive, Reader, Tx, epochs, events};

query! {
    FIND = "group_infos/find" (TEXT, TEXT, FLOAT8, INT8);
    REPLACE = "group_infos/replace" (TEXT, INT8, BYTEA, TEXT);
    REQUEST = "group_infos/request" (TEXT, TEXT, FLOAT8);
}

/// Time within which the members of a conversation are asked for a GroupInfo at most once, in seconds.
pub const REQUEST_SECONDS: f64 = 10.0;

/// GroupInfo of a conversation's present epoch.
pub struct CurrentGroupInfo {
    pub epoch: i64,
    /// `None`: the conversation has none of this epoch, or a larger one than was asked for.
    pub bytes: Option<Vec<u8>>,
    /// True if the members were asked for one within [`REQUEST_SECONDS`].
    pub is_requested: bool,
    /// Incarnation of the database, if it has begun.
    pub incarnation: Option<ServerIncarnation>,
}

/// Returns the GroupInfo of the present epoch to a member, if it has at most this many bytes, from one snapshot with the epoch. Errors:
/// `NotMember`, `ConvoNotFound`.
pub(crate) async fn find(
    db: &impl Queries,
    convo: &ConvoId,
    did: &Did,
    most_bytes: usize,
) -> Result<CurrentGroupInfo, Abort> {
    let row = db.find(&FIND, &[&convo.as_str(), &did.as_str(), &REQUEST_SECONDS, &(most_bytes as i64)]).await?;
    let row = row.ok_or_else(epochs::not_found)?;
    if row.get("has_left") {
        return Err(Code::NotMember.because("you are no longer a member of this conversation").into());
    }
    let key = row.get::<_, Option<&[u8]>>("cursor_key").map(events::key).transpose()?;
    Ok(CurrentGroupInfo {
        epoch: row.get("current_epoch"),
        bytes: row.get("group_info"),
        is_requested: row.get("is_requested"),
        incarnation: key.map(|key| ServerIncarnation::of(&key.0)),
    })
}

impl Reader {
    /// Returns the GroupInfo of the present epoch to a member, whatever its size. Errors: `NotMember`, `ConvoNotFound`.
    pub async fn group_info(&self, convo: &ConvoId, did: &Did) -> Result<CurrentGroupInfo, Error> {
        Ok(find(self, convo, did, MAX_MLS_BYTES).await?)
    }
}

/// Stores a GroupInfo of the conversation's present epoch in place of the one that it has.
pub(crate) async fn replace(x: &mut Exclusive<'_>, group_info: &GroupInfo, signer: &Did) -> Result<(), Abort> {
    let (epoch, bytes) = (group_info.frame.epoch, group_info.bytes.as_slice());
    x.tx.rows(&REPLACE, &[&x.convo.as_str(), &epoch, &bytes, &signer.as_str()]).await?;
    Ok(())
}

/// Asks the members of a conversation for a GroupInfo, unless they were asked within [`REQUEST_SECONDS`], and returns the number of members.
/// `None`: the caller is not a member.
pub(crate) async fn request(tx: &Tx, convo: &ConvoId, caller: &Did) -> Result<Option<i64>, Abort> {
    let row = tx.find(&REQUEST, &[&convo.as_str(), &caller.as_str(), &REQUEST_SECONDS]).await?;
    Ok(row.map(|row| row.get("member_count")))
}
