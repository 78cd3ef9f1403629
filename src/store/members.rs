//! The roster: who is in a conversation, since when, and who may remove others.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};

use crate::error::{Code, Error};
use crate::ids::{ConvoId, Did, EntryId, ServerIncarnation};
use crate::wire::MemberView;

use super::epochs;
use super::key_packages::Hash;
use super::lanes::Lane;
use super::position::Position;
use super::query::{Query, query};
use super::session::{Params, Queries};
use super::welcomes::NewWelcome;
use super::{Abort, Exclusive, ExclusiveMany, Reader, Store, events, welcomes};

query! {
    RECORD = "members/record" (TEXT, TEXT);
    STRANGERS = "members/strangers" (TEXT, TEXT_ARRAY, INT8);
    EVER = "members/ever" (TEXT_ARRAY, TEXT_ARRAY);
    ADMIN = "members/admin" (TEXT);
    COUNT = "members/count" (TEXT);
    JOIN = "members/join" (TEXT, TEXT_ARRAY, INT8, INT8, TEXT, BOOL);
    LEAVE = "members/leave" (TEXT, TEXT, TEXT, INT8, INT8);
    LIST = "members/list" (TEXT_ARRAY);
    ADD_BATCH = "members/add_batch" (
        TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, BYTEA_ARRAY, BYTEA_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, TEXT_ARRAY, BYTEA_ARRAY,
        INT8_ARRAY, TEXT_ARRAY, INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, BYTEA_ARRAY, INT8_ARRAY, BYTEA_ARRAY, TEXT_ARRAY, INT8, TIMESTAMPTZ
    );
}

/// What somebody who is or was a member is to a conversation, and where that stands.
#[derive(Debug, Clone)]
pub struct MemberRecord {
    pub at: Position,
    /// It sees only entries after this seq.
    pub joined_seq: i64,
    /// It sees only commits that create epochs after this one.
    pub joined_epoch: i64,
    /// How it left; `None` for a member.
    pub left: Option<Left>,
    /// The incarnation of the database that says so, if that has begun.
    pub incarnation: Option<ServerIncarnation>,
}

/// The end of a membership.
#[derive(Debug, Clone)]
pub struct Left {
    pub by: Did,
    /// Where the conversation stood.
    pub at: Position,
}

/// An active member's view of the log, the only kind that may read.
#[derive(Debug, Clone, Copy)]
pub struct Membership {
    pub at: Position,
    pub joined_seq: i64,
    pub joined_epoch: i64,
    /// The incarnation of the database that says so, if that has begun.
    pub incarnation: Option<ServerIncarnation>,
}

impl MemberRecord {
    /// Refuses former members.
    pub fn active(self) -> Result<Membership, Error> {
        match self.left {
            None => Ok(Membership {
                at: self.at,
                joined_seq: self.joined_seq,
                joined_epoch: self.joined_epoch,
                incarnation: self.incarnation,
            }),
            Some(_) => Err(Code::NotMember.because("you are no longer a member of this conversation")),
        }
    }
}

/// What `did` is to the conversation; `None` if it never was in it or there is none.
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
        joined_seq: row.get("joined_seq"),
        joined_epoch: row.get("joined_epoch"),
        left,
    }))
}

/// The caller's membership, or the error for somebody who has none. Strangers cannot tell a foreign conversation from a
/// missing one.
pub(crate) async fn membership(db: &impl Queries, convo: &ConvoId, did: &Did) -> Result<Membership, Abort> {
    let standing = record(db, convo, did).await?.ok_or_else(epochs::not_found)?;
    Ok(standing.active()?)
}

/// Who may remove others.
pub(crate) async fn admin(x: &Exclusive<'_>) -> Result<Option<Did>, Abort> {
    let rows = x.tx.rows(&ADMIN, &[&x.convo.as_str()]).await?;
    let admin: Option<&str> = rows.first().expect("a select without FROM returns one row").get("member_did");
    Ok(admin.map(|did| did.parse().map_err(Error::internal)).transpose()?)
}

/// How many active members there are.
pub(crate) async fn count(x: &Exclusive<'_>) -> Result<i64, Abort> {
    let row = x.tx.find(&COUNT, &[&x.convo.as_str()]).await?.ok_or_else(epochs::not_found)?;
    Ok(row.get("active"))
}

/// Who was in a conversation before others joined.
pub struct Before {
    /// How many active members there were.
    pub active: i64,
    /// Which of those who join were among them.
    pub present: Vec<String>,
}

/// Makes `dids` members who see what comes after `at`, and tells everybody that `actor` added them and whether a Welcome waits. What
/// still waited for them from an earlier membership is withdrawn. Whether they may be added is for the caller to decide by what was
/// before; if it refuses, nothing of this stays.
pub(crate) async fn join(
    x: &mut Exclusive<'_>,
    dids: &[&Did],
    at: Position,
    actor: &Did,
    welcome: bool,
) -> Result<Before, Abort> {
    let dids: Vec<&str> = dids.iter().map(|did| did.as_str()).collect();
    let params: Params<'_> = &[&x.convo.as_str(), &dids, &at.seq, &at.epoch, &actor.as_str(), &welcome];
    let row = x.tx.find(&JOIN, params).await?.ok_or_else(epochs::not_found)?;
    welcomes::discard(x, row.get("withdrawn")).await?;
    Ok(Before { active: row.get("active"), present: row.get("present") })
}

/// The statement of [`add_batch`].
pub(crate) const BATCH: &Query = &ADD_BATCH;

/// A commit of a batch, and whom it adds.
pub struct BatchItem<'a> {
    pub convo: &'a ConvoId,
    /// The commit's id in the log.
    pub id: &'a EntryId,
    pub sender: &'a Did,
    /// What its own framing says it was made in.
    pub epoch: i64,
    pub commit: &'a [u8],
    /// SHA-256 of the commit.
    pub hash: &'a [u8; 32],
    pub dids: &'a [Did],
    pub welcome: Option<&'a NewWelcome>,
    /// To use up: owners and hashes.
    pub key_packages: &'a [(Did, Hash)],
    /// The idempotency key with the request's fingerprint.
    pub once: Option<(&'a str, &'a [u8; 32])>,
    pub now: DateTime<Utc>,
}

/// What became of a commit of a batch.
#[derive(Debug, Clone, Copy)]
pub enum Added {
    /// It won, and left its conversation here.
    At(Position),
    /// Somebody else wrote the conversation meanwhile; it may be tried again.
    Moved,
    /// It has to be looked at alone.
    No,
}

/// Does those of the commits that are acceptable as they are, and says where each of them left its conversation, in step with `items`,
/// of which no two have a conversation, a key package or a key in common.
pub(crate) async fn add_batch(
    x: &ExclusiveMany<'_>,
    items: &[BatchItem<'_>],
    most_members: i64,
) -> Result<Vec<Added>, Abort> {
    fn column<'a, T>(items: &'a [BatchItem<'a>], value: impl Fn(&'a BatchItem<'a>) -> T) -> Vec<T> {
        items.iter().map(value).collect()
    }
    /// Of each item several, with its place.
    fn lines<'a, T: 'a, I: Iterator<Item = T>>(
        items: &'a [BatchItem<'a>],
        of: impl Fn(&'a BatchItem<'a>) -> I,
    ) -> (Vec<i64>, Vec<T>) {
        items.iter().zip(1..).flat_map(|(item, place)| of(item).map(move |line| (place, line))).unzip()
    }
    let (adding, dids) = lines(items, |item| item.dids.iter().map(Did::as_str));
    let (addressing, to) = lines(items, |item| item.welcome.into_iter().flat_map(|welcome| &welcome.recipients));
    let (using, used) = lines(items, |item| item.key_packages.iter());
    let rows =
        x.tx.rows(
            &ADD_BATCH,
            &[
                &column(items, |item| item.convo.as_str()),
                &column(items, |item| item.id.as_str()),
                &column(items, |item| item.sender.as_str()),
                &column(items, |item| item.epoch),
                &column(items, |item| item.commit),
                &column(items, |item| item.hash.as_slice()),
                &column(items, |item| item.once.map(|(key, _)| key)),
                &column(items, |item| item.once.map(|(_, fingerprint)| fingerprint.as_slice())),
                &column(items, |item| item.welcome.map(|welcome| welcome.id.as_str())),
                &column(items, |item| item.welcome.map(|welcome| welcome.bytes.as_slice())),
                &adding,
                &dids,
                &addressing,
                &to.iter().map(|line| line.id.as_str()).collect::<Vec<_>>(),
                &to.iter().map(|line| line.did.as_str()).collect::<Vec<_>>(),
                &to.iter().map(|line| line.key_package_hash.as_deref()).collect::<Vec<_>>(),
                &using,
                &used.iter().map(|(_, hash)| hash.as_slice()).collect::<Vec<_>>(),
                &used.iter().map(|(owner, _)| owner.as_str()).collect::<Vec<_>>(),
                &most_members,
                &items.iter().map(|item| item.now).max(),
            ],
        )
        .await?;
    let mut landed = vec![Added::No; items.len()];
    for row in rows {
        let place: i64 = row.get("place");
        landed[place as usize - 1] = match row.get("seq") {
            Some(seq) => Added::At(Position { epoch: row.get("epoch"), seq }),
            None => Added::Moved,
        };
    }
    Ok(landed)
}

/// Ends a membership at the position where the conversation stands now, tells those who stay and who is gone, and withdraws what still
/// waited for it, in one flush.
pub(crate) async fn leave(x: &mut Exclusive<'_>, did: &Did, by: &Did, at: Position) -> Result<(), Abort> {
    x.tx.prepare(&[&LEAVE, &welcomes::WITHDRAW, &events::LEFT]).await?;
    let params: Params<'_> = &[&x.convo.as_str(), &did.as_str(), &by.as_str(), &at.epoch, &at.seq];
    let (_, withdrawn, ()) = tokio::try_join!(
        biased;
        x.tx.rows(&LEAVE, params),
        welcomes::delete_waiting(x, std::slice::from_ref(did)),
        events::left(x, did, by, at),
    )?;
    welcomes::discard(x, withdrawn).await
}

/// The active members of each conversation, in order of joining.
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

/// How many of somebody's newest conversations are looked at for one that others are in too.
const SHARED: i64 = 100;

impl Store {
    /// Which of these people are or were in which of these conversations.
    pub async fn were_ever_members(&self, pairs: &[&(ConvoId, Did)]) -> Result<HashSet<(String, String)>, Error> {
        let (convos, dids): (Vec<&str>, Vec<&str>) =
            pairs.iter().map(|(convo, did)| (convo.as_str(), did.as_str())).unzip();
        // Those who write wait for it, so it shall not wait for those who read.
        let reader = Reader(self.session(Lane::Write).await?);
        let rows = reader.rows(&EVER, &[&convos, &dids]).await?;
        Ok(rows.iter().map(|row| (row.get("convo_id"), row.get("member_did"))).collect())
    }
}

impl Reader {
    /// Those of the list who have nothing to do with somebody: they share no conversation that they have made or read in.
    pub async fn strangers(&self, did: &Did, others: &[Did]) -> Result<Vec<String>, Error> {
        let others: Vec<&str> = others.iter().map(Did::as_str).collect();
        let rows = self.rows(&STRANGERS, &[&did.as_str(), &others, &SHARED]).await?;
        Ok(rows.iter().map(|row| row.get("did")).collect())
    }
}
