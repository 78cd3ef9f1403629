//! What the event tail and the streams read, and the event rows that commands write beside the log.
//!
//! Nothing here asks who may see what, except where it says so; [`crate::events`] does, and says why that is enough.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio_postgres::Row;

use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::views::MessageView;

use super::epochs::Position;
use super::messages::{MAX_PAGE_BYTES, message_view};
use super::query::query;
use super::session::Queries;
use super::{Abort, Exclusive, Reader, Tx};

query! {
    LEFT = "events/left" (TEXT, TEXT, TEXT, INT8, INT8);
    READ = "events/read" (TEXT, TEXT, INT8, TEXT);
    KEY_PACKAGES_LOW = "events/key_packages_low" (TEXT_ARRAY, TIMESTAMPTZ, INT8);
    POSITION = "events/position" ();
    NEWS = "events/news" (TEXT, INT8);
    ENTRIES = "events/entries" (TEXT_ARRAY, INT8_ARRAY, INT8, INT8);
    MEMBERSHIPS = "events/memberships" (TEXT_ARRAY, TEXT_ARRAY);
    ATTACHMENTS = "events/attachments" (TEXT, TEXT, INT8);
    REPLAY = "events/replay" (TEXT, TEXT, INT8, INT8);
    PARTING = "events/parting" (TEXT, TEXT, INT8, INT8);
}

/// Fewer one-time key packages than this are few, and their owner is told when one is taken.
pub const FEW_KEY_PACKAGES: i64 = 5;
/// Most entries of one conversation that are read at a time.
pub const PAGE: i64 = 200;

/// A moment in the database's history.
#[derive(Debug, Clone)]
pub struct Moment {
    /// PostgreSQL's name of it (pg_snapshot, PostgreSQL manual 9.27.5): which transactions had ended.
    pub snapshot: String,
    /// All transactions below had ended.
    pub watermark: i64,
    /// No transaction at or above had begun.
    pub ahead: i64,
    /// When it was, by the database's clock.
    pub at: DateTime<Utc>,
}

impl Moment {
    /// Whether a transaction that has been committed by now had been committed then.
    pub fn saw(&self, tx: i64) -> bool {
        // xmin:xmax:xip,…
        let running = self.snapshot.rsplit(':').next().unwrap_or_default();
        tx < self.ahead && !running.split(',').any(|xid| xid.parse() == Ok(tx))
    }
}

/// What became visible between two moments.
pub struct News {
    /// The later moment.
    pub moment: Moment,
    /// Conversations with new entries.
    pub convos: Vec<ConvoId>,
    /// Rows, in an order that is that of their commits within each conversation.
    pub rows: Vec<EventRow>,
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
    pub emitted_at: DateTime<Utc>,
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
        tx.rows(&KEY_PACKAGES_LOW, &[&owners, &now, &FEW_KEY_PACKAGES]).await?;
    }
    Ok(())
}

fn moment(row: &Row) -> Moment {
    Moment {
        snapshot: row.get("snapshot"),
        watermark: row.get("watermark"),
        ahead: row.get("ahead"),
        at: row.get("now"),
    }
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
        emitted_at: row.get("emitted_at"),
    })
}

impl Reader {
    /// The present, and the transaction below which events may be gone.
    pub async fn moment(&self) -> Result<(Moment, i64), Error> {
        let row = self.find(&POSITION, &[]).await.map_err(Abort::into_error)?;
        let row = row.ok_or_else(|| Error::internal("event_horizon has no row"))?;
        Ok((moment(&row), row.get("horizon")))
    }

    /// What became visible since a moment; at most so many rows.
    pub async fn news(&self, since: &Moment, most_rows: i64) -> Result<News, Error> {
        let rows = self.rows(&NEWS, &[&since.snapshot, &most_rows]).await.map_err(Abort::into_error)?;
        let first = rows.first().ok_or_else(|| Error::internal("no snapshot"))?;
        let mut news = News { moment: moment(first), convos: Vec::new(), rows: Vec::new() };
        for row in &rows[1..] {
            match row.get::<_, i32>("part") {
                1 => news.convos.push(id(row.get("convo_id"))?),
                // A newer replica may write what this one does not know; the log has it, and the others go on.
                _ => news.rows.extend(event_row(row).ok()),
            }
        }
        Ok(news)
    }

    /// The next entries of conversations, each after a position: at most [`PAGE`] of each and [`MAX_PAGE_BYTES`] of all, one at
    /// least, ascending within each. Whether there may be more.
    pub async fn entries(&self, after: &[(&str, i64)]) -> Result<(Vec<MessageView>, bool), Error> {
        let convos: Vec<&str> = after.iter().map(|(convo, _)| *convo).collect();
        let seqs: Vec<i64> = after.iter().map(|(_, seq)| *seq).collect();
        let rows = self.rows(&ENTRIES, &[&convos, &seqs, &PAGE, &MAX_PAGE_BYTES]).await.map_err(Abort::into_error)?;
        let entries =
            rows.iter().map(|row| message_view(&id(row.get("convo_id"))?, row)).collect::<Result<Vec<_>, Error>>()?;
        let bytes: i64 = entries.iter().map(|entry| entry.ciphertext.0.len() as i64).sum();
        // The one that did not fit may have been as large as any.
        let full = bytes + crate::mls::MAX_CIPHERTEXT_BYTES as i64 >= MAX_PAGE_BYTES || entries.len() as i64 >= PAGE;
        Ok((entries, full))
    }

    /// What people are or were to conversations.
    pub async fn memberships(&self, pairs: &[(&str, &str)]) -> Result<Vec<Membership>, Error> {
        let convos: Vec<&str> = pairs.iter().map(|(convo, _)| *convo).collect();
        let dids: Vec<&str> = pairs.iter().map(|(_, did)| *did).collect();
        let rows = self.rows(&MEMBERSHIPS, &[&convos, &dids]).await.map_err(Abort::into_error)?;
        rows.iter()
            .map(|row| {
                Ok(Membership {
                    convo: id(row.get("convo_id"))?,
                    did: id(row.get("member_did"))?,
                    joined_seq: row.get("joined_seq"),
                    since: row.get::<_, DateTime<Utc>>("joined_at").timestamp_micros(),
                    left_seq: row.get("left_seq"),
                    last_seq: row.get("last_seq"),
                })
            })
            .collect()
    }

    /// The conversations that a stream of `did` begins with, and where: after the newest entry of each, or after the last that was
    /// written by a transaction below `cursor`.
    pub async fn attachments(
        &self,
        did: &Did,
        only: Option<&ConvoId>,
        cursor: Option<i64>,
    ) -> Result<Vec<Attachment>, Error> {
        let only = only.map(ConvoId::as_str);
        let rows = self.rows(&ATTACHMENTS, &[&did.as_str(), &only, &cursor]).await.map_err(Abort::into_error)?;
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

    /// The rows for `did` that were written by transactions not below `cursor`: its own, those of the conversations that it is
    /// in now, also from before it was, and those by which it joined conversations that it has been removed from since. At most
    /// `most`.
    pub async fn replay(
        &self,
        did: &Did,
        only: Option<&ConvoId>,
        cursor: i64,
        most: i64,
    ) -> Result<Vec<EventRow>, Error> {
        let only = only.map(ConvoId::as_str);
        let rows = self.rows(&REPLAY, &[&did.as_str(), &only, &cursor, &most]).await.map_err(Abort::into_error)?;
        Ok(rows.iter().filter_map(|row| event_row(row).ok()).collect())
    }

    /// The last entry that needs not be sent to `did`, which comes from `cursor`, of the membership that ended by the row `removal`.
    pub async fn parting(&self, convo: &ConvoId, did: &Did, cursor: i64, removal: i64) -> Result<i64, Error> {
        let row = self.find(&PARTING, &[&convo.as_str(), &did.as_str(), &cursor, &removal]).await;
        let row = row.map_err(Abort::into_error)?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("position"))
    }
}
