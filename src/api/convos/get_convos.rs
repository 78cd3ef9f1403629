//! getConvos: the caller's conversations, newest first.
//!
//! Not in the order of the last message: that order changes while pages are read, so pages would skip and repeat
//! conversations. An index of it would cost a write per member for each message.

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::api::fields::Limit;
use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::wire::ConvoView;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetConvos;

/// Approximate size of one member of a roster in a reply, in bytes.
const MEMBER_BYTES: usize = 160;

#[derive(Deserialize)]
pub struct Input {
    #[serde(default)]
    limit: Limit,
    /// Id of the last conversation on the previous page.
    cursor: Option<String>,
}

#[derive(Serialize)]
pub struct Output {
    conversations: Vec<ConvoView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<ConvoId>,
}

impl Endpoint for GetConvos {
    const LEXICON: &'static str = include_str!("get_convos.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::InvalidCursor];

    type Input = Input;
    type Output = Output;

    fn bytes(page: &Output) -> usize {
        page.conversations.iter().map(|convo| convo.members.len() * MEMBER_BYTES).sum()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let before = input.cursor.map(|cursor| position(&cursor)).transpose()?;
        let (conversations, more) =
            app.store.reader().await?.convos(&caller.did, before.as_ref(), input.limit.0).await?;
        let cursor = conversations.last().filter(|_| more).map(|convo| convo.id.clone());
        Ok(Output { conversations, cursor })
    }
}

/// Parses a cursor: the id of a conversation, a ULID as the server writes it. That conversation may have ended since.
fn position(cursor: &str) -> Result<ConvoId, Error> {
    let is_ours = Ulid::from_string(cursor).is_ok_and(|id| id.to_string() == cursor);
    let convo = cursor.parse().ok().filter(|_| is_ours);
    convo.ok_or_else(|| Code::InvalidCursor.because("cursor was not issued by getConvos"))
}
