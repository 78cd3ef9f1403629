//! getExpectedConversations: the conversations in whose MLS groups a device of the caller should be.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::api::fields::{self, Limit};
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

/// Beginning of a cursor, before the id of the last conversation of its page.
const CURSOR: &str = "before.";

pub struct GetExpectedConversations;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "device_id")]
    device_id: Option<String>,
    #[serde(default)]
    limit: Limit,
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Output {
    conversations: Vec<Expected>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Expected {
    convo_id: String,
    name: String,
    member_count: i64,
    should_be_in_group: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_in_group: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needs_rejoin: Option<bool>,
    #[serde(serialize_with = "datetime")]
    last_activity: DateTime<Utc>,
}

impl Endpoint for GetExpectedConversations {
    const LEXICON: &'static str = include_str!("get_expected_conversations.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::DeviceNotFound, Code::InvalidCursor];

    type Input = Input;
    type Output = Output;

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let device_id = input.device_id.map(fields::device_id).transpose()?;
        let before = input.cursor.map(|cursor| position(&cursor).ok_or_else(invalid_cursor)).transpose()?;
        let limit = input.limit.0;
        let reader = app.store.reader().await?;
        let before = before.as_ref().map(ConvoId::as_str);
        let mut found = reader.expected_convos(&caller.did, device_id.as_deref(), before, limit + 1).await?;
        let more = found.len() as i64 > limit;
        found.truncate(limit as usize);
        let cursor = found.last().filter(|_| more).map(|last| format!("{CURSOR}{}", last.convo_id));
        let conversations = found.into_iter().map(|convo| Expected {
            convo_id: convo.convo_id,
            name: convo.name,
            member_count: convo.member_count,
            should_be_in_group: convo.in_group,
            device_in_group: convo.device_in_group,
            needs_rejoin: convo.device_in_group.map(|is_in| convo.in_group && !is_in),
            last_activity: convo.updated_at,
        });
        Ok(Output { conversations: conversations.collect(), cursor })
    }
}

/// Returns the conversation at which the page of a cursor ended.
fn position(cursor: &str) -> Option<ConvoId> {
    cursor.strip_prefix(CURSOR)?.parse().ok()
}

fn invalid_cursor() -> Error {
    Code::InvalidCursor.because("cursor must be one that this method returned")
}
