//! Rosters: who is in a conversation, since when, and who may remove others.

use std::collections::{HashMap, HashSet};

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, ServerIncarnation};
use crate::wire::MemberView;

use super::epochs;
use super::lanes::Lane;
use super::position::Position;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Reader, Store, events, welcomes};

query! {
    RECORD = "members/record" (TEXT, TEXT);
    ABSENT = "members/absent" (TEXT, TEXT_ARRAY);
    STRANGERS = "members/strangers" (TEXT, TEXT_ARRAY, INT8);
    EVER = "members/ever" (TEXT_ARRAY, TEXT_ARRAY);
    ADMIN = "members/admin" (TEXT);
    FIRST_ACTIVE = "members/first_active" (TEXT, TEXT_ARRAY);
    COUNT = "members/count" (TEXT);
    JOIN = "members/join" (TEXT, TEXT_ARRAY, INT8, INT8, TEXT, BOOL);
    LEAVE = "members/leave" (TEXT, TEXT, TEXT, INT8, INT8);
    LIST = "members/list" (TEXT_ARRAY);
}

/// Record of a current or former member of a conversation, and the conversation's position.
#[derive(Debug, Clone)]
pub struct MemberRecord {
    pub at: Position,
    /// Number of the conversation's group.
    pub generation: i64,
    /// The member sees only entries after this seq.
    pub joined_seq: i64,
    /// Of the commits of the present group, the member sees only those that create epochs after this one.
    pub joined_epoch: i64,
    /// Epoch in which the member joined, in the generation of that time.
    pub joined_at_epoch: i64,
    /// End of the membership; `None` for a current member.
    pub left: Option<Left>,
    /// Incarnation of the database, if it has begun.
    pub incarnation: Option<ServerIncarnation>,
}

/// The end of a membership.
#[derive(Debug, Clone)]
pub struct Left {
    pub by: Did,
    /// Position of the conversation at that time.
    pub at: Position,
}

/// Membership of a current member, who alone may read the log.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    pub at: Position,
    /// Number of the conversation's group.
    pub generation: i64,
    pub joined_seq: i64,
    pub joined_epoch: i64,
    /// Epoch in which the member joined, in the generation of that time.
    pub joined_at_epoch: i64,
    /// The incarnation of the database that says so, if that has begun.
    pub incarnation: Option<ServerIncarnation>,
}

impl MemberRecord {
    /// Returns the membership. Errors: `NotMember` for former members.
    pub fn active(self) -> Result<Membership, Error> {
        match self.left {
            None => Ok(Membership {
                at: self.at,
                generation: self.generation,
                joined_seq: self.joined_seq,
                joined_epoch: self.joined_epoch,
                joined_at_epoch: self.joined_at_epoch,
                incarnation: self.incarnation,
            }),
            Some(_) => Err(Code::NotMember.because("you are no longer a member of this conversation")),
        }
    }
}

/// Returns the record of `did`; `None` if it was never a member or the conversation does not exist.
pub(crate) async fn record(db: &impl Queries, convo: &ConvoId, did: &Did) -> Result<Option<MemberRecord>, Abort> {
    let Some(row) = db.find(&RECORD, &[&convo.as_str(), &did.as_str()]).await? else {
        return Ok(None);
    };
    let left = match row.get::<_, Option<&str>>("left_by") {
        Some(by) => Some(Left {
            by: by.parse().map_err(Error::internal)?,
            at: Position { epoch: row.get("left_epoch"), seq: row.get("left_seq") },
        }),
        None => None,
    };
    let key = row.get::<_, Option<&[u8]>>("cursor_key").map(events::key).transpose()?;
    Ok(Some(MemberRecord {
        incarnation: key.as_ref().map(|key| ServerIncarnation::of(&key.0)),
        at: Position::from(&row),
        generation: row.get("generation"),
        joined_seq: row.get("joined_seq"),
        joined_epoch: row.get("joined_epoch"),
        joined_at_epoch: row.get("joined_at_epoch"),
        left,
    }))
}

/// Returns the caller's membership. Errors: `NotMember`, or `ConvoNotFound` for callers that were never a member, which
/// cannot tell whether the conversation exists.
pub(crate) async fn membership(db: &impl Queries, convo: &ConvoId, did: &Did) -> Result<Membership, Abort> {
    let standing = record(db, convo, did).await?.ok_or_else(epochs::not_found)?;
    Ok(standing.active()?)
}

/// Returns one of these people who is a member.
pub(crate) async fn first_active(db: &impl Queries, convo: &ConvoId, dids: &[Did]) -> Result<Option<Did>, Abort> {
    let dids: Vec<&str> = dids.iter().map(Did::as_str).collect();
    let row = db.find(&FIRST_ACTIVE, &[&convo.as_str(), &dids]).await?;
    Ok(row.map(|row| row.get::<_, &str>("member_did").parse().map_err(Error::internal)).transpose()?)
}

/// Returns the member that may remove others.
pub(crate) async fn admin(x: &Exclusive<'_>) -> Result<Option<Did>, Abort> {
    let rows = x.tx.rows(&ADMIN, &[&x.convo.as_str()]).await?;
    let admin: Option<&str> = rows.first().expect("a select without FROM returns one row").get("member_did");
    Ok(admin.map(|did| did.parse().map_err(Error::internal)).transpose()?)
}

/// Returns those of a list that are not active members.
pub(crate) async fn absent(x: &Exclusive<'_>, dids: &[&Did]) -> Result<Vec<String>, Abort> {
    let dids: Vec<&str> = dids.iter().map(|did| did.as_str()).collect();
    let rows = x.tx.rows(&ABSENT, &[&x.convo.as_str(), &dids]).await?;
    Ok(rows.iter().map(|row| row.get("did")).collect())
}

/// Returns the number of current members.
pub(crate) async fn count(x: &Exclusive<'_>) -> Result<i64, Abort> {
    let row = x.tx.find(&COUNT, &[&x.convo.as_str()]).await?.ok_or_else(epochs::not_found)?;
    Ok(row.get("active"))
}

/// Makes `dids` the first members of a conversation, who see what comes after `at`, and announces that `actor` added them and whether a
/// Welcome waits.
pub(crate) async fn join(
    x: &mut Exclusive<'_>,
    dids: &[&Did],
    at: Position,
    actor: &Did,
    welcome: bool,
) -> Result<(), Abort> {
    let dids: Vec<&str> = dids.iter().map(|did| did.as_str()).collect();
    x.tx.rows(&JOIN, &[&x.convo.as_str(), &dids, &at.seq, &at.epoch, &actor.as_str(), &welcome]).await?;
    Ok(())
}

/// The refusal of a removal by a member that is not the admin.
pub(crate) fn not_admin() -> Error {
    Code::NotAuthorized.because("only the conversation's admin may remove others")
}

/// The refusal to remove a person that is not a member.
pub(crate) fn not_a_target(did: &str) -> Error {
    Code::TargetNotMember.because(format!("{did} is not a member of this conversation"))
}

/// The refusal to let the last member go.
pub(crate) fn last_one() -> Error {
    Code::LastMember.because("the last member cannot leave")
}

/// Ends a membership at the conversation's present position, tells the remaining members and the one that left, and
/// withdraws its waiting Welcomes, in one flush.
pub(crate) async fn leave(x: &mut Exclusive<'_>, did: &Did, by: &Did, at: Position) -> Result<(), Abort> {
    x.tx.prepare(&[&LEAVE, &welcomes::WITHDRAW, &events::LEFT]).await?;
    let params: Params<'_> = &[&x.convo.as_str(), &did.as_str(), &by.as_str(), &at.epoch, &at.seq];
    let leaving = [did];
    let (_, withdrawn, ()) = tokio::try_join!(
        biased;
        x.tx.rows(&LEAVE, params),
        welcomes::delete_waiting(x, &leaving, None),
        events::left(x, did, by, at),
    )?;
    welcomes::discard(x, withdrawn).await
}

/// Returns the current members of each conversation, in order of joining.
pub(crate) async fn list(db: &impl Queries, convos: &[ConvoId]) -> Result<HashMap<String, Vec<MemberView>>, Abort> {
    let ids: Vec<&str> = convos.iter().map(ConvoId::as_str).collect();
    let mut rosters: HashMap<String, Vec<MemberView>> = HashMap::new();
    for row in db.rows(&LIST, &[&ids]).await? {
        let did: Did = row.get::<_, &str>("member_did").parse().map_err(Error::internal)?;
        rosters.entry(row.get("convo_id")).or_default().push(MemberView {
            user_did: did.clone(),
            did,
            joined_at: row.get("joined_at"),
            is_admin: row.get("is_admin"),
        });
    }
    Ok(rosters)
}

/// Number of a caller's newest conversations that are searched for other members.
const MAX_SHARED_CONVOS: i64 = 100;

impl Store {
    /// Returns those pairs of conversation and DID that are or were memberships.
    pub async fn were_ever_members(&self, pairs: &[&(ConvoId, Did)]) -> Result<HashSet<(String, String)>, Error> {
        let (convos, dids): (Vec<&str>, Vec<&str>) =
            pairs.iter().map(|(convo, did)| (convo.as_str(), did.as_str())).unzip();
        // Writers wait for this, so it must not wait behind readers.
        let reader = Reader(self.session(Lane::Write).await?);
        let rows = reader.rows(&EVER, &[&convos, &dids]).await?;
        Ok(rows.iter().map(|row| (row.get("convo_id"), row.get("member_did"))).collect())
    }
}

impl Reader {
    /// Returns those of `others` that are strangers to `did`: they share no conversation that they have created or
    /// read.
    pub async fn strangers(&self, did: &Did, others: &[Did]) -> Result<Vec<String>, Error> {
        let others: Vec<&str> = others.iter().map(Did::as_str).collect();
        let rows = self.rows(&STRANGERS, &[&did.as_str(), &others, &MAX_SHARED_CONVOS]).await?;
        Ok(rows.iter().map(|row| row.get("did")).collect())
    }
}
