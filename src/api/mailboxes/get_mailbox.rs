//! getMailbox: the caller's effective mailbox and its state.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::members;
use crate::wire::optional_datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetMailbox;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    provider: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    convo_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "optional_datetime")]
    set_at: Option<DateTime<Utc>>,
}

impl Endpoint for GetMailbox {
    const LEXICON: &'static str = include_str!("get_mailbox.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        input.convo_id.as_mut()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let reader = app.store.reader().await?;
        if let Some(convo) = &input.convo_id {
            members::membership(&reader, convo, &caller.did).await?;
        }
        let none =
            Output { provider: "none", convo_id: None, zone: None, url: None, state: None, reason: None, set_at: None };
        let Some(seen) = reader.mailbox(&caller.did, input.convo_id.as_ref()).await? else { return Ok(none) };
        let set = Output { convo_id: seen.convo, set_at: Some(seen.set_at), ..none };
        Ok(match seen.url {
            Some(url) => Output {
                provider: "webhook",
                zone: seen.zone,
                url: Some(url),
                state: Some(seen.state),
                reason: seen.reason,
                ..set
            },
            None => set,
        })
    }
}
