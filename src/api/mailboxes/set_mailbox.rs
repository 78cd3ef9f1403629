//! setMailbox: sets or removes the caller's mailbox, to which entries are delivered in addition to the log.

use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::app::App;
use crate::bytes::LexBytes;
use crate::commands;
use crate::delivery::webhook_url;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::store::mailboxes::{Secret, Webhook};
use crate::xrpc::{Caller, Endpoint, Kind};

/// Maximum length of a zone, in bytes.
const MAX_ZONE_BYTES: usize = 128;
/// Length of a secret in bytes, as Standard Webhooks require.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

pub struct SetMailbox;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
    provider: Provider,
    zone: Option<String>,
    url: Option<String>,
    secret: Option<LexBytes>,
}

#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Provider {
    None,
    Webhook,
}

#[derive(Serialize)]
pub struct Output {
    success: bool,
}

impl Endpoint for SetMailbox {
    const LEXICON: &'static str = include_str!("set_mailbox.json");
    const KIND: Kind = Kind::Procedure;
    const ERRORS: &'static [Code] = &[Code::ConvoNotFound, Code::NotMember, Code::InvalidMailbox];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        input.convo_id.as_mut()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let Input { convo_id, provider, zone, url, secret } = input;
        let zone = fields::text(zone, MAX_ZONE_BYTES, Code::InvalidMailbox, "zone")?;
        let mailbox = match (provider, url, secret) {
            (Provider::None, None, None) if zone.is_none() => None,
            (Provider::Webhook, Some(url), Some(secret)) => {
                let place = webhook_url::check(&url, app.config.mailboxes.allow_private_hosts)
                    .map_err(|why| Code::InvalidMailbox.because(why.to_string()))?;
                if !SECRET_BYTES.contains(&secret.0.len()) {
                    return Err(Code::InvalidMailbox.because("secret must have 24 to 64 bytes"));
                }
                Some(Webhook { url: place.url, host: place.host, zone, secret: Secret(secret.0) })
            }
            (Provider::None, ..) => {
                return Err(Code::InvalidMailbox.because("provider none must not have zone, url or secret"));
            }
            (Provider::Webhook, ..) => {
                return Err(Code::InvalidRequest.because("provider webhook needs url and secret"));
            }
        };
        app.store.transact(commands::SetMailbox { caller: caller.did.clone(), convo_id, mailbox }).await?;
        app.delivery.wake();
        Ok(Output { success: true })
    }
}
