//! streamConvoEvents: the events of the caller's conversations, or of one, as server-sent events.
//!
//! The stream begins now or at a cursor: the parameter, or the header `Last-Event-ID` that clients of server-sent events send when they
//! reconnect. The header wins, because it is newer than the parameter in the address.

use serde::Deserialize;

use crate::app::App;
use crate::error::{Code, Error};
use crate::events::cursor::Sealed;
use crate::ids::ConvoId;
use crate::streaming::Sse;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct StreamConvoEvents;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
    cursor: Option<String>,
}

impl Endpoint for StreamConvoEvents {
    const LEXICON: &'static str = include_str!("stream_convo_events.json");
    const KIND: Kind = Kind::Query;
    // The stream does not end.
    const READS: bool = false;
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::InvalidCursor,
        Code::FutureCursor,
        Code::OutdatedCursor,
        Code::TooManyConversations,
    ];

    /// It waits for the tail; streams have their own limit at the database.
    const NEEDS_SLOT: bool = false;

    type Input = Input;
    type Output = Sse;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        input.convo_id.as_mut()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Sse, Error> {
        let cursor = caller.last_event_id.as_ref().or(input.cursor.as_ref());
        let cursor: Option<Sealed> = cursor.map(|text| text.parse()).transpose()?;
        let account = app.limits.account(&caller.did);
        let only = input.convo_id.as_ref();
        let open = app.events.open(&caller.did, caller.key.as_ref(), only, cursor, account).await?;
        Ok(Sse::new(open, caller.takes_gzip, app.bodies.clone(), app.metrics.events.clone()))
    }
}
