//! Reads of the event tail and the streams.

use chrono::{DateTime, Utc};

use super::super::messages::message_view;
use super::super::query::query;
use super::super::session::{Params, Queries};
use super::super::{Reader, incarnation};
use super::id;
use super::moment::{CursorIncarnation, Moment, Present, Seen, key, moment};
use super::rows::{EventRow, MAX_PAGE_ROW_BYTES, MAX_PAGE_ROWS, RowPage, event_row};
use crate::error::Error;
use crate::ids::{ConvoId, Did};
use crate::wire::MessageView;

query! {
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

/// Maximum number of entries of one conversation in one read.
pub const MAX_PAGE_ENTRIES: i64 = 200;
/// Maximum number of bytes of MLS data in one read, unless a single entry is larger.
const MAX_PAGE_BYTES: i64 = 16 * 1024 * 1024;
/// Maximum number of bytes of MLS data in one entry, by the lexicons. Earlier versions have accepted that much.
const MAX_ENTRY_BYTES: i64 = 10 * 1024 * 1024;
/// Rows and entries that became visible between two moments.
pub struct News {
    /// The later moment.
    pub moment: Moment,
    /// Conversations with new entries.
    pub convos: Vec<ConvoId>,
    /// True if there were more entries than the limit, so that some conversations are missing.
    pub too_many: bool,
    /// Rows, in order of commit within each conversation.
    pub rows: RowPage,
}

/// Current or former membership, as one version of the roster says.
#[derive(Debug, Clone)]
pub struct RosterEntry {
    pub convo: ConvoId,
    pub did: Did,
    pub joined_seq: i64,
    /// Time of joining in microseconds, which distinguishes it from an earlier membership.
    pub since: i64,
    /// Seq at which it ended, if it did.
    pub left_seq: Option<i64>,
    /// Seq of the conversation's newest entry.
    pub last_seq: i64,
    /// Version of the roster. A current membership is unchanged until the version moves.
    pub roster: i64,
}

/// Next entries of several conversations.
pub struct Entries {
    /// Ascending within each conversation.
    pub entries: Vec<MessageView>,
    /// True if there may be more.
    pub more: bool,
    /// Newest transaction of this era that wrote one of them; 0 if none did.
    pub newest: i64,
    /// Version of each conversation's roster at the time of the read. A member that was removed before one of the
    /// entries is removed in this version.
    pub rosters: Vec<(ConvoId, i64)>,
}

/// A conversation with which a stream starts.
#[derive(Debug, Clone)]
pub struct Attachment {
    pub convo: ConvoId,
    pub since: i64,
    /// Last entry that the client already has.
    pub position: i64,
    /// The conversation's newest entry.
    pub last_seq: i64,
}

impl Reader {
    /// Returns the present state for a cursor of an incarnation. Starts the present incarnation if it has not begun.
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
            Some(bytes) => {
                Some(CursorIncarnation { key: key(bytes)?, era: row.get("era_then"), floor: row.get("floor") })
            }
            None => None,
        };
        let mut moment = moment(&row)?;
        moment.has_read(row.get::<_, Option<i64>>("newest").unwrap_or_default());
        Ok(Present { moment, horizon: row.get("horizon"), then })
    }

    /// Returns whether the newest row that was read still exists, or was deleted in order.
    pub async fn is_kept(&self, seen: &Seen) -> Result<bool, Error> {
        let row = self.find(&IS_KEPT, &[&seen.newest, &seen.era]).await?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("is_kept"))
    }

    /// Returns what became visible since a moment: at most `most_entries` entries, and the first page of rows. `None`:
    /// the present incarnation has not begun.
    pub async fn news(&self, since: &Moment, most_entries: i64) -> Result<Option<News>, Error> {
        let params: Params<'_> = &[&since.snapshot, &most_entries, &MAX_PAGE_ROWS, &MAX_PAGE_ROW_BYTES];
        let rows = self.rows(&NEWS, params).await?;
        let Some((first, rows)) = rows.split_first() else { return Ok(None) };
        let told = rows.partition_point(|row| row.get::<_, i32>("part") == 1);
        let (convos, rows) = rows.split_at(told);
        let convos = convos.iter().map(|row| id(row.get("convo_id"))).collect::<Result<_, Error>>()?;
        let (moment, too_many) = (moment(first)?, first.get("too_many"));
        Ok(Some(News { moment, convos, too_many, rows: RowPage::of(rows) }))
    }

    /// Returns the next rows that became visible between two moments.
    pub async fn more_news(&self, since: &Moment, until: &Moment, after: i64) -> Result<RowPage, Error> {
        let params: Params<'_> =
            &[&since.snapshot, &until.snapshot, &after, &MAX_PAGE_ROWS, &MAX_PAGE_ROW_BYTES, &until.seen().era];
        Ok(RowPage::of(&self.rows(&MORE_NEWS, params).await?))
    }

    /// Returns the next entries of conversations, each after a position: at most [`MAX_PAGE_ENTRIES`] of each and [`MAX_PAGE_BYTES`] of
    /// all, at least one.
    pub async fn entries(&self, after: &[(&str, i64)]) -> Result<Entries, Error> {
        let convos: Vec<&str> = after.iter().map(|(convo, _)| *convo).collect();
        let seqs: Vec<i64> = after.iter().map(|(_, seq)| *seq).collect();
        let rows = self.rows(&ENTRIES, &[&convos, &seqs, &MAX_PAGE_ENTRIES, &MAX_PAGE_BYTES]).await?;
        let entries =
            rows.iter().map(|row| message_view(&id(row.get("convo_id"))?, row)).collect::<Result<Vec<_>, Error>>()?;
        let bytes: i64 = entries.iter().map(|entry| entry.ciphertext.size() as i64).sum();
        // The next one may be as large as any.
        let more = bytes + MAX_ENTRY_BYTES >= MAX_PAGE_BYTES || entries.len() as i64 >= MAX_PAGE_ENTRIES;
        let rosters = entries.iter().zip(&rows).map(|(entry, row)| (entry.convo_id.clone(), row.get("roster_version")));
        let mut rosters: Vec<_> = rosters.collect();
        rosters.dedup();
        let newest = rows.iter().filter_map(|row| row.get::<_, Option<i64>>("tx")).max().unwrap_or_default();
        Ok(Entries { entries, more, newest, rosters })
    }

    /// Returns memberships by conversation and DID.
    pub async fn memberships(&self, pairs: &[(&str, &str)]) -> Result<Vec<RosterEntry>, Error> {
        let convos: Vec<&str> = pairs.iter().map(|(convo, _)| *convo).collect();
        let dids: Vec<&str> = pairs.iter().map(|(_, did)| *did).collect();
        let rows = self.rows(&MEMBERSHIPS, &[&convos, &dids]).await?;
        rows.iter()
            .map(|row| {
                Ok(RosterEntry {
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

    /// Returns the conversations with which a stream of `did` starts, at most `most`, each with its position: the
    /// newest entry, or the last one that was `seen`.
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

    /// Returns the rows for `did` that were not `seen`: its own; those of its present conversations, also from before
    /// it joined; and those by which it joined conversations that it has left since. `None`: more rows or bytes than
    /// `most`.
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

    /// Returns the last entry that `did`, which has received what was `seen`, already has of the membership that ended
    /// by the row `removal`.
    pub async fn removal_position(&self, convo: &ConvoId, did: &Did, seen: &Seen, removal: i64) -> Result<i64, Error> {
        let params: Params<'_> = &[&convo.as_str(), &did.as_str(), &seen.ahead, &seen.array(), &seen.era, &removal];
        let row = self.find(&REMOVAL_POSITION, params).await?;
        Ok(row.ok_or_else(|| Error::internal("an expression has no value"))?.get("position"))
    }
}
