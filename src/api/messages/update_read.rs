//! updateRead: the caller has read a conversation up to an entry, or all of it.
//!
//! The read position moves forward only. The caller's other devices are notified, and unread counts are computed from it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::commands;
use crate::error::{Code, Error};
use crate::ids::{ConvoId, EntryId};
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct UpdateRead;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "message_id")]
    message_id: Option<EntryId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    /// The newest entry that counts as read. It may be newer than the one in the request.
    seq: i64,
    #[serde(serialize_with = "datetime")]
    read_at: DateTime<Utc>,
}

impl Endpoint for UpdateRead {
    const LEXICON: &'static str = include_str!("update_read.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::MessageNotFound];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id, message_id } = input;
        let read =
            app.store.transact(commands::UpdateRead { convo_id, caller: caller.did.clone(), message_id }).await?;
        Ok(Output { seq: read.seq, read_at: read.at })
    }
}
