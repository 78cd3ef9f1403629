//! getMessages: a page of the log, in ascending order of `seq`.
//!
//! Without a position it returns the newest page; with `cursor` the page before; with `sinceSeq` or `sinceMessage` the page after.
//! Reading changes nothing. With `markRead` it also moves the caller's read position to the newest entry of the page, after the reply.
//!
//! Values of `seq` have no gaps, so a page shows by itself that entries are missing. Only retention removes entries; the reply then
//! says where the log begins.

use serde::{Deserialize, Serialize};

use crate::api::fields::{Count, Limit};
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, EntryId, ServerIncarnation};
use crate::store::members::{self, Membership};
use crate::store::{Reader, messages};
use crate::wire::MessageView;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetMessages;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(default)]
    limit: Limit,
    #[serde(alias = "since_message")]
    since_message: Option<String>,
    #[serde(alias = "since_seq")]
    since_seq: Option<Count>,
    /// The page ends before this seq.
    cursor: Option<String>,
    #[serde(default, alias = "mark_read")]
    mark_read: bool,
    /// Earlier versions moved the read position without it. It is only checked.
    #[serde(default, rename = "peek")]
    _peek: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    messages: Vec<MessageView>,
    /// Cursor of the previous page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
    last_seq: i64,
    /// First seq of the log, if requested entries have been deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_start: Option<i64>,
    /// Incarnation of the database that the page was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_incarnation: Option<ServerIncarnation>,
}

/// Bound of a page.
enum PageBound {
    Before(i64),
    After(i64),
}

impl Endpoint for GetMessages {
    const LEXICON: &'static str = include_str!("get_messages.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] =
        &[Code::ConvoNotFound, Code::NotMember, Code::InvalidCursor, Code::BlobStoreUnavailable];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    fn bytes(page: &Output) -> usize {
        page.messages.iter().map(|message| message.ciphertext.size()).sum()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let reader = app.store.reader().await?;
        let convo = &input.convo_id;
        let member = members::membership(&reader, convo, &caller.did).await?;
        let (messages, first, whole) = match page_bound(&reader, &input, member).await? {
            PageBound::Before(seq) => {
                let messages = reader.messages_before(convo, &caller.did, seq, input.limit.0).await?;
                let first = messages.first().map(|message| message.seq);
                let more = first.filter(|first| *first > member.joined_seq + 1);
                let end = seq.min(member.at.seq + 1);
                // A page that is not full reaches back to the join, unless it was cut at its maximum bytes.
                let full = messages.len() as i64 == input.limit.0;
                let whole = is_dense(&messages, first.filter(|_| full).unwrap_or(member.joined_seq + 1), end);
                (messages, more, whole)
            }
            PageBound::After(seq) => {
                let messages = reader.messages_after(convo, &caller.did, seq, input.limit.0).await?;
                let (first, end) = (seq.max(member.joined_seq) + 1, messages.last().map(|last| last.seq + 1));
                let whole = end.is_none_or(|end| is_dense(&messages, first, end));
                (messages, None, whole)
            }
        };
        let log_start = if whole { None } else { reader.log_start(convo).await? };
        // The database need not wait for the blob store.
        drop(reader);
        app.bodies.fill_all(&messages).await?;
        if let Some(newest) = messages.last().filter(|_| input.mark_read && !caller.head_only) {
            app.read_positions.push(convo, &caller.did, newest.seq);
        }
        let last_seq = messages.last().map_or(member.at.seq, |newest| newest.seq.max(member.at.seq));
        let (cursor, server_incarnation) = (first.map(|first| first.to_string()), member.incarnation);
        Ok(Output { messages, cursor, last_seq, log_start, server_incarnation })
    }
}

/// Returns true if the entries begin at `first`, have no gap and reach `end`. Newer entries may follow.
fn is_dense(messages: &[MessageView], first: i64, end: i64) -> bool {
    (messages.len() as i64) >= end - first && (first..).zip(messages).all(|(seq, message)| seq == message.seq)
}

async fn page_bound(reader: &Reader, input: &Input, member: Membership) -> Result<PageBound, Error> {
    let invalid = |message: &str| Code::InvalidCursor.because(message);
    match (&input.cursor, input.since_seq, &input.since_message) {
        (None, None, None) => Ok(PageBound::Before(i64::MAX)),
        (Some(cursor), None, None) => match cursor.parse() {
            Ok(seq @ 1..) => Ok(PageBound::Before(seq)),
            _ => Err(invalid("cursor was not issued by getMessages")),
        },
        (None, Some(seq), None) => Ok(PageBound::After(seq.0)),
        (None, None, Some(id)) => {
            let id: EntryId = id.parse().map_err(|_| invalid("sinceMessage is not a message id"))?;
            let seq = messages::find_seq(reader, &input.convo_id, &id, member.joined_seq).await?;
            seq.map(PageBound::After)
                .ok_or_else(|| invalid("sinceMessage is not a message that you can see in this conversation"))
        }
        _ => Err(Code::InvalidRequest.because("give only one of cursor, sinceSeq and sinceMessage")),
    }
}
