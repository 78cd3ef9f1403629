//! subscribeConvoEvents: the events of streamConvoEvents over a WebSocket, on which the client can send typing indicators and its read
//! position.
//!
//! A caller without permission is refused before the upgrade. An invalid cursor is reported in a frame, because clients in browsers see
//! nothing else.

use actix_web::web::Data;
use serde::Deserialize;

use crate::app::App;
use crate::auth::token::invalid;
use crate::error::{Code, Error};
use crate::events::cursor::Sealed;
use crate::events::event::Typing;
use crate::ids::{ConvoId, Did};
use crate::store::members;
use crate::streaming::WebSocket;
use crate::streaming::frames::FromClient;
use crate::xrpc::{Subscription, TicketHolder};

use super::send_typing_indicator;

pub struct SubscribeConvoEvents;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
    cursor: Option<String>,
}

impl Subscription for SubscribeConvoEvents {
    const LEXICON: &'static str = include_str!("subscribe_convo_events.json");
    const ERRORS: &'static [Code] = &[
        Code::ConvoNotFound,
        Code::NotMember,
        Code::InvalidCursor,
        Code::FutureCursor,
        Code::OutdatedCursor,
        Code::TooManyConversations,
        Code::ConsumerTooSlow,
        Code::UpgradeRequired,
    ];

    type Input = Input;
    type Output = WebSocket;

    async fn open(app: &Data<App>, holder: TicketHolder, mut input: Input) -> Result<WebSocket, Error> {
        if let Some(convo) = &mut input.convo_id {
            app.store.resolve_convo(convo, &holder.did).await?;
        }
        let only = match (holder.convo, input.convo_id) {
            (Some(bound), Some(asked)) if bound != asked => {
                return Err(invalid("the ticket is for another conversation"));
            }
            (bound, asked) => bound.or(asked),
        };
        let opening = async {
            let cursor: Option<Sealed> = input.cursor.map(|text| text.parse()).transpose()?;
            let account = app.limits.account(&holder.did);
            app.events.open(&holder.did, holder.key.as_ref(), only.as_ref(), cursor, account).await
        };
        match opening.await {
            Ok(open) => {
                let app_of_client = app.clone();
                let handler = move |said| {
                    let (app, did, only) = (app_of_client.clone(), holder.did.clone(), only.clone());
                    Box::pin(async move { handle(&app, did, only, said).await }) as _
                };
                Ok(WebSocket::new(open, Box::new(handler), app.bodies.clone(), app.metrics.events.clone()))
            }
            Err(why)
                if matches!(
                    why.code,
                    Code::InvalidCursor | Code::FutureCursor | Code::OutdatedCursor | Code::TooManyConversations
                ) =>
            {
                Ok(WebSocket::refusing(why, app.metrics.events.clone()))
            }
            Err(why) => Err(why),
        }
    }
}

/// Handles a message from the client. A message that is not allowed or exceeds a limit has no effect and gets no reply, because any
/// reply would tell a stranger something. The caller's own limit applies too; its error ends the stream.
async fn handle(app: &App, did: Did, only: Option<ConvoId>, mut said: FromClient) -> Result<(), Error> {
    app.limits.admit(&did)?;
    if let FromClient::Typing { convo_id: convo, .. } | FromClient::Ack { convo_id: Some(convo), .. } = &mut said
        && let Err(why) = app.store.resolve_convo(convo, &did).await
    {
        tracing::debug!(error = why.code.name(), "a client's message had no effect");
        return Ok(());
    }
    let within = |convo: &ConvoId| only.as_ref().is_none_or(|only| only == convo);
    let done = match said {
        FromClient::Typing { convo_id, is_typing } if within(&convo_id) => {
            send_typing_indicator::publish_typing(app, Typing { convo_id, did, is_typing }).await
        }
        FromClient::Ack { convo_id, seq } => match convo_id.or(only.clone()).filter(within) {
            Some(convo) => acknowledge(app, &did, &convo, seq).await,
            None => Ok(()),
        },
        FromClient::Typing { .. } | FromClient::Ping {} | FromClient::Unknown => Ok(()),
    };
    if let Err(why) = done {
        tracing::debug!(error = why.code.name(), "a client's message had no effect");
    }
    Ok(())
}

/// Moves the read position forward, asynchronously. Moves are merged before they are written, and the furthest one wins, so a position
/// beyond the log must be discarded here.
async fn acknowledge(app: &App, did: &Did, convo: &ConvoId, seq: i64) -> Result<(), Error> {
    let member = members::membership(&app.store.reader().await?, convo, did).await?;
    if seq <= member.at.seq {
        app.read_positions.push(convo, did, seq);
    }
    Ok(())
}
