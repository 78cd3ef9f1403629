//! getSubscriptionTicket: issues a ticket that opens one WebSocket within 30 seconds, for all of the caller's conversations or for one.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::members;
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetSubscriptionTicket;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    ticket: String,
    endpoint: String,
    #[serde(serialize_with = "datetime")]
    expires_at: DateTime<Utc>,
}

impl Endpoint for GetSubscriptionTicket {
    const LEXICON: &'static str = include_str!("get_subscription_ticket.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        input.convo_id.as_mut()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        if let Some(convo) = &input.convo_id {
            members::membership(&app.store.reader().await?, convo, &caller.did).await?;
        }
        let issued = app.authenticator.issue_ticket(&caller.did, caller.key.as_ref(), input.convo_id.as_ref())?;
        let endpoint = app.config.auth.websocket_endpoint.clone();
        Ok(Output { ticket: issued.text, endpoint, expires_at: issued.expires_at })
    }
}
