//! What the event tail and the streams read, and the event rows that commands write beside the log.
//!
//! Nothing here asks who may see what, except where it says so; [`crate::events`] does, and says why that is enough.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::wire::MessageView;

use super::incarnation;
use super::messages::message_view;
use super::position::Position;
use super::query::query;
use super::session::{Params, Queries};
use super::{Abort, Exclusive, Reader, Tx};

query! {
    LEFT = "events/left" (TEXT, TEXT, TEXT, INT8, INT8);
    READ = "events/read" (TEXT, TEXT, INT8, TEXT);
    KEY_PACKAGES_LOW = "events/key_packages_low" (TEXT_ARRAY, TIMESTAMPTZ, INT8);
    POSITION = "events/position" (INT4);
    IS_KEPT = "events/is_kept" (INT8, INT4);
    NEWS = "events/news" (TEXT, INT8, INT8, INT8);
    MORE_NEWS = "events/more_news" (TEXT, TEXT, INT8, INT8, INT8, INT4);
    ENTRIES = "events/entries" (TEXT_ARRAY, INT8_ARRAY, INT8, INT8);
    MEMBERSHIPS = "events/memberships" (TEXT_ARRAY, TEXT_ARRAY);
    ATTACHMENTS = "events/attachments" (TEXT, TEXT, INT8, TEXT, INT4, INT8);
    REPLAY = "events/replay" (TEXT, TEXT, INT8, TEXT, INT4, INT8, INT8);
    REMOVAL_POSITION = "events/removal_position" (TEXT, TEXT, INT8, TEXT, INT4, INT8);
}

/// Fewer one-time key packages than this are few, and their owner is told when one is taken.
pub const LOW_KEY_PACKAGES: i64 = 5;
/// Most entries of one conversation that are read at a time.
pub const PAGE: i64 = 200;
/// Most bytes of MLS data in what is read at a time, unless a single entry has more.
const PAGE_BYTES: i64 = 16 * 1024 * 1024;
/// Most bytes of MLS data that an entry has, as the lexicons have it; earlier versions have accepted that much.
const LARGEST_ENTRY: i64 = 10 * 1024 * 1024;
/// Most event rows, and bytes of what they say, that are read at a time.
pub const PAGE_ROWS: i64 = 1_000;
pub const PAGE_ROW_BYTES: i64 = 1024 * 1024;

/// A moment in the database's history.
#[derive(Debug, Clone)]
pub struct Moment {
    /// PostgreSQL's name of it (pg_snapshot, PostgreSQL manual 9.27.5): which transactions had ended.
    pub snapshot: String,
    /// The same to be looked at.
    seen: Seen,
    /// The incarnation of the database, without which the numbers of transactions mean nothing.
    pub incarnation: i32,
    /// Seals the incarnation's cursors.
    pub key: Key,
    /// When it was, by the database's clock.
    pub at: DateTime<Utc>,
}

impl Moment {
    /// From PostgreSQL's name of a snapshot; `None` if it is none.
    pub fn new(snapshot: String, incarnation: i32, era: i32, key: Key, at: DateTime<Utc>) -> Option<Self> {
        // xmin:xmax:xip,…
        let mut parts = snapshot.split(':').skip(1);
        let ahead = parts.next()?.parse().ok()?;
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let mut running = running.collect::<Result<Vec<i64>, _>>().ok()?;
        running.sort_unstable();
        Some(Self { seen: Seen { era, ahead, running, newest: 0 }, snapshot, incarnation, key, at })
    }

    /// Notes that something of this transaction was read.
    pub fn has_read(&mut self, tx: i64) {
        self.seen.newest = self.seen.newest.max(tx);
    }

    /// Which transactions had ended.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

/// Which transactions a snapshot saw the end of: all of older eras, and of its own all but these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The incarnation that the numbering of transactions began with.
    pub era: i32,
    /// None at or above had begun.
    pub ahead: i64,
    /// These below ran, in order.
    pub running: Vec<i64>,
    /// The newest of which something was read; 0 if nothing was.
    pub newest: i64,
}

impl Seen {
    /// Whether a transaction of its era that has been committed by now had been committed then.
    pub fn saw(&self, tx: i64) -> bool {
        tx < self.ahead && !self.running.contains(&tx)
    }

    /// How many transactions ago the oldest of those that run began.
    pub fn oldest_age(&self) -> i64 {
        self.running.first().map_or(0, |oldest| self.ahead - oldest)
    }

    /// The same, or less, with so many running transactions at most: those that have run longest, and none from the next one on.
    pub fn within(&self, most: usize) -> Self {
        let ahead = self.running.get(most).copied().unwrap_or(self.ahead);
        Self { ahead, running: self.running.iter().copied().take(most).collect(), ..*self }
    }

    /// The same without transactions from this one on.
    pub fn below(mut self, tx: i64) -> Self {
        self.ahead = self.ahead.min(tx);
        self.running.retain(|running| *running < tx);
        self
    }

    /// Whether something below this transaction may be missing, of what is not running still.
    pub fn lacks_below(&self, tx: i64, now: &Seen) -> bool {
        self.ahead < tx || self.running.iter().any(|running| *running < tx && !now.running.contains(running))
    }

    /// The running ones as PostgreSQL writes an array.
    fn array(&self) -> String {
        let running: Vec<String> = self.running.iter().map(i64::to_string).collect();
        format!("{{{}}}", running.join(","))
    }
}

/// Key of cursors, never shown.
#[derive(Clone)]
pub struct Key(pub [u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

/// The present, as whoever comes with a cursor has to know it.
pub struct Present {
    /// With the newest entry, which whoever begins here may have read from the log.
    pub moment: Moment,
    /// What transactions of this era below wrote may be gone.
    pub horizon: i64,
    /// The incarnation of the cursor, if there is such a one.
    pub then: Option<Then>,
}

/// An incarnation that a cursor names.
pub struct Then {
    pub key: Key,
    pub era: i32,
    /// Nothing was written below in the incarnations that followed, if there are any.
    pub floor: Option<i64>,
}

/// What became visible between two moments.
pub struct News {
    /// The later moment.
    pub moment: Moment,
    /// Conversations with new entries.
    pub convos: Vec<ConvoId>,
    /// There were more entries than may be told, so some conversations are missing.
    pub too_many: bool,
    /// Rows, in an order that is that of their commits within each conversation.
    pub rows: RowPage,
}

/// Some rows in their order.
#[derive(Default)]
pub struct RowPage {
    pub rows: Vec<EventRow>,
    /// There may be more after this id.
    pub more_after: Option<i64>,
}

impl RowPage {
    /// A newer replica may write what this one does not know; the log has it, and the others go on.
    fn of(rows: &[Row]) -> Self {
        let bytes: usize = rows.iter().map(|row| row.get::<_, &str>("payload").len()).sum();
        // The one that did not fit may have been as large as any.
        let full = rows.len() as i64 >= PAGE_ROWS || bytes as i64 >= PAGE_ROW_BYTES / 2;
        let more_after = rows.last().filter(|_| full).map(|row| row.get("id"));
        Self { rows: rows.iter().filter_map(|row| event_row(row).ok()).collect(), more_after }
    }
}

/// A row of `event_stream`.
#[derive(Debug, Clone)]
pub struct EventRow {
    pub id: i64,
    pub convo: Option<ConvoId>,
    pub recipient: Option<Did>,
    pub what: What,
    /// The transaction that wrote it.
    pub tx: i64,
    /// How many bytes it says that in.
    pub size: usize,
    pub emitted_at: DateTime<Utc>,
}

impl EventRow {
    /// A name for what the row tells of somebody: the same whenever and by whatever replica it is told. It is a hash, since the row's
    /// number would say how much is written here.
    pub fn name(&self, did: &Did) -> String {
        let convo = self.convo.as_ref().map_or("", ConvoId::as_str);
        let told = format!("{} {} {convo} {did}", self.id, self.emitted_at.timestamp_micros());
        Sha256::digest(told)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a row says.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event_type", content = "payload", rename_all = "camelCase")]
pub enum What {
    /// These were added, and see what comes after `seq`.
    Joined { dids: Vec<Did>, actor: Did, epoch: i64, seq: i64, welcome: bool },
    /// For those who stay: somebody left or was removed.
    Left { did: Did, actor: Did, epoch: i64, seq: i64 },
    /// The same for who is gone.
    Removed { did: Did, actor: Did, epoch: i64, seq: i64 },
    /// The recipient has read up to here on another device.
    #[serde(rename_all = "camelCase")]
    Read { seq: i64, message_id: Option<String>, read_at: DateTime<Utc> },
    /// The recipient has followed up to here on another device.
    #[serde(rename_all = "camelCase")]
    Cursor { last_seen: String },
    /// The recipient has few key packages left.
    KeyPackagesLow { available: i64 },
    /// The recipient's mailbox has proved itself, or is given up.
    Mailbox { state: String, reason: Option<String> },
}

/// What somebody is or was to a conversation.
#[derive(Debug, Clone)]
pub struct Membership {
    pub convo: ConvoId,
    pub did: Did,
    pub joined_seq: i64,
    /// Tells this membership from an earlier one, in microseconds.
    pub since: i64,
    /// Where it ended, if it did.
    pub left_seq: Option<i64>,
    /// The conversation's newest entry.
    pub last_seq: i64,
    /// The version of the roster that says so. Until it moves, an active membership is the same.
    pub roster: i64,
}

/// The next entries of some conversations.
pub struct Entries {
    /// Ascending in each conversation.
    pub entries: Vec<MessageView>,
    /// There may be more.
    pub more: bool,
    /// The newest transaction of this era that wrote one of them; 0 if none did.
    pub newest: i64,
    /// Each of their conversations with the version of its roster when they were read. Who was removed before one of them, was so in
    /// this version.
    pub rosters: Vec<(ConvoId, i64)>,
}

/// A conversation that a stream begins with.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub convo: ConvoId,
    pub since: i64,
    /// The last entry that needs not be sent.
    pub position: i64,
    /// The conversation's newest entry.
    pub last_seq: i64,
}

/// Notes that a membership ended.
pub(super) async fn left(x: &Exclusive<'_>, did: &Did, actor: &Did, at: Position) -> Result<(), Abort> {
    x.tx().rows(&LEFT, &[&x.convo().as_str(), &did.as_str(), &actor.as_str(), &at.epoch, &at.seq]).await?;
    Ok(())
}

/// A member's read position, and when it was reached.
pub struct ReadTo {
    pub seq: i64,
    pub at: DateTime<Utc>,
}

/// Moves a member's read position forward to an entry, or to the newest, and tells its devices. `None`: not a member.
pub(crate) async fn read(
    tx: &Tx,
    convo: &ConvoId,
    did: &Did,
    seq: Option<i64>,
    entry: Option<&str>,
) -> Result<Option<ReadTo>, Abort> {
    let row = tx.find(&READ, &[&convo.as_str(), &did.as_str(), &seq, &entry]).await?;
    Ok(row.map(|row| ReadTo { seq: row.get("seq"), at: row.get("read_at") }))
}

/// Tells those of the owners who have few key packages left.
pub(crate) async fn key_packages_low(tx: &Tx, owners: &[&str], now: DateTime<Utc>) -> Result<(), Abort> {
    if !owners.is_empty() {
        tx.rows(&KEY_PACKAGES_LOW, &[&owners, &now, &LOW_KEY_PACKAGES]).await?;
    }
    Ok(())
}

fn moment(row: &Row) -> Result<Moment, Error> {
    let (incarnation, era) = (row.get("incarnation"), row.get("era"));
    Moment::new(row.get("snapshot"), incarnation, era, key(row.get("cursor_key"))?, row.get("now"))
        .ok_or_else(|| Error::internal("PostgreSQL writes snapshots in another way"))
}

pub(super) fn key(bytes: &[u8]) -> Result<Key, Error> {
    bytes.try_into().map(Key).map_err(Error::internal)
}

fn id<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    text.parse().map_err(Error::internal)
}

fn event_row(row: &Row) -> Result<EventRow, Error> {
    let payload: &str = row.get("payload");
    let tagged = format!(r#"{{"event_type":"{}","payload":{payload}}}"#, row.get::<_, &str>("event_type"));
    Ok(EventRow {
        id: row.get("id"),
        convo: row.get::<_, Option<&str>>("convo_id").map(id).transpose()?,
        recipient: row.get::<_, Option<&str>>("recipient_did").map(id).transpose()?,
        what: serde_json::from_str(&tagged).map_err(Error::internal)?,
        tx: row.get("tx"),
        size: payload.len(),
        emitted_at: row.get("emitted_at"),
    })
}

impl Reader {
    /// The present, for who comes with a cursor of an incarnation. Begins the present incarnation if nobody has.
    pub async fn present(&self, of_cursor: Option<i32>) -> Result<Present, Error> {
        let ask = async || self.find(&POSITION, &[&of_cursor]).await;
        let row = match ask().await? {
            Some(row) => row,
            None => {
                incarnation::renew(&self.0).await?;
                ask().await?.ok_or_else(|| Error::internal("an incarnation that has begun is not the present one"))?
            }
        };
        let then = match row.get::<_, Option<&[u8]>>("key_then") {
            Some(bytes) => Some(Then { key: key(bytes)?, era: row.get("era_then"), floor: row.get("floor") }),
            None => None,
        };
        let mut moment = moment(&row)?;
        moment.has_read(row.get::<_, Option<i64>>("newest").unwrap_or_default());
        Ok(Present { moment, horizon: row.get("horizon"), then })
    }

    /// Whether the newest of what was read is there still, or was deleted in order.
    pub async fn is_kept(&self, seen: &Seen) -> Result<bool, Error> {
        let row = self.find(&IS_KEPT, &[&seen.newest, &seen.era]).await?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("is_kept"))
    }

    /// What became visible since a moment: at most so many entries, and the first page of rows. `None`: the present incarnation has not
    /// begun yet.
    pub async fn news(&self, since: &Moment, most_entries: i64) -> Result<Option<News>, Error> {
        let params: Params<'_> = &[&since.snapshot, &most_entries, &PAGE_ROWS, &PAGE_ROW_BYTES];
        let rows = self.rows(&NEWS, params).await?;
        let Some((first, rows)) = rows.split_first() else { return Ok(None) };
        let told = rows.partition_point(|row| row.get::<_, i32>("part") == 1);
        let (convos, rows) = rows.split_at(told);
        let convos = convos.iter().map(|row| id(row.get("convo_id"))).collect::<Result<_, Error>>()?;
        let (moment, too_many) = (moment(first)?, first.get("too_many"));
        Ok(Some(News { moment, convos, too_many, rows: RowPage::of(rows) }))
    }

    /// The next rows that became visible between two moments.
    pub async fn more_news(&self, since: &Moment, until: &Moment, after: i64) -> Result<RowPage, Error> {
        let params: Params<'_> =
            &[&since.snapshot, &until.snapshot, &after, &PAGE_ROWS, &PAGE_ROW_BYTES, &until.seen.era];
        Ok(RowPage::of(&self.rows(&MORE_NEWS, params).await?))
    }

    /// The next entries of conversations, each after a position: at most [`PAGE`] of each and [`PAGE_BYTES`] of all, one at
    /// least.
    pub async fn entries(&self, after: &[(&str, i64)]) -> Result<Entries, Error> {
        let convos: Vec<&str> = after.iter().map(|(convo, _)| *convo).collect();
        let seqs: Vec<i64> = after.iter().map(|(_, seq)| *seq).collect();
        let rows = self.rows(&ENTRIES, &[&convos, &seqs, &PAGE, &PAGE_BYTES]).await?;
        let entries =
            rows.iter().map(|row| message_view(&id(row.get("convo_id"))?, row)).collect::<Result<Vec<_>, Error>>()?;
        let bytes: i64 = entries.iter().map(|entry| entry.ciphertext.0.len() as i64).sum();
        // The one that did not fit may have been as large as any.
        let more = bytes + LARGEST_ENTRY >= PAGE_BYTES || entries.len() as i64 >= PAGE;
        let rosters = entries.iter().zip(&rows).map(|(entry, row)| (entry.convo_id.clone(), row.get("roster_version")));
        let mut rosters: Vec<_> = rosters.collect();
        rosters.dedup();
        let newest = rows.iter().filter_map(|row| row.get::<_, Option<i64>>("tx")).max().unwrap_or_default();
        Ok(Entries { entries, more, newest, rosters })
    }

    /// What people are or were to conversations.
    pub async fn memberships(&self, pairs: &[(&str, &str)]) -> Result<Vec<Membership>, Error> {
        let convos: Vec<&str> = pairs.iter().map(|(convo, _)| *convo).collect();
        let dids: Vec<&str> = pairs.iter().map(|(_, did)| *did).collect();
        let rows = self.rows(&MEMBERSHIPS, &[&convos, &dids]).await?;
        rows.iter()
            .map(|row| {
                Ok(Membership {
                    convo: id(row.get("convo_id"))?,
                    did: id(row.get("member_did"))?,
                    joined_seq: row.get("joined_seq"),
                    since: row.get::<_, DateTime<Utc>>("joined_at").timestamp_micros(),
                    left_seq: row.get("left_seq"),
                    last_seq: row.get("last_seq"),
                    roster: row.get("roster_version"),
                })
            })
            .collect()
    }

    /// The conversations that a stream of `did` begins with, and where: after the newest entry of each, or after the
    /// last that was `seen`. At most so many.
    pub async fn attachments(
        &self,
        did: &Did,
        only: Option<&ConvoId>,
        seen: Option<&Seen>,
        most: i64,
    ) -> Result<Vec<Attachment>, Error> {
        let only = only.map(ConvoId::as_str);
        let (ahead, era) = (seen.map(|seen| seen.ahead), seen.map(|seen| seen.era));
        let running = seen.map_or("{}".to_owned(), Seen::array);
        let params: Params<'_> = &[&did.as_str(), &only, &ahead, &running, &era, &most];
        let rows = self.rows(&ATTACHMENTS, params).await?;
        rows.iter()
            .map(|row| {
                Ok(Attachment {
                    convo: id(row.get("convo_id"))?,
                    since: row.get::<_, DateTime<Utc>>("joined_at").timestamp_micros(),
                    position: row.get("position"),
                    last_seq: row.get("last_seq"),
                })
            })
            .collect()
    }

    /// The rows for `did` that were not `seen`: its own, those of the conversations that it is in now, also from before it was, and those
    /// by which it joined conversations that it has been removed from since. `None`: more than these many rows or bytes.
    pub async fn replay(
        &self,
        did: &Did,
        only: Option<&ConvoId>,
        seen: &Seen,
        most: (i64, i64),
    ) -> Result<Option<Vec<EventRow>>, Error> {
        let only = only.map(ConvoId::as_str);
        let (rows, bytes) = most;
        let params: Params<'_> = &[&did.as_str(), &only, &seen.ahead, &seen.array(), &seen.era, &rows, &bytes];
        let found = self.rows(&REPLAY, params).await?;
        let total = found.last().map_or(0, |row| row.get("total"));
        if found.len() as i64 > rows || total > bytes {
            return Ok(None);
        }
        Ok(Some(found.iter().filter_map(|row| event_row(row).ok()).collect()))
    }

    /// The last entry that needs not be sent to `did`, which has had what was `seen`, of the membership that ended by the row `removal`.
    pub async fn removal_position(&self, convo: &ConvoId, did: &Did, seen: &Seen, removal: i64) -> Result<i64, Error> {
        let params: Params<'_> = &[&convo.as_str(), &did.as_str(), &seen.ahead, &seen.array(), &seen.era, &removal];
        let row = self.find(&REMOVAL_POSITION, params).await?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("position"))
    }
}
