//! getWelcome: the Welcome with which the caller joins a conversation. It can be read until the caller confirms it.

use serde::{Deserialize, Serialize};

use crate::api::fields;
use crate::app::App;
use crate::bytes::to_base64;
use crate::error::{Code, Error};
use crate::hex;
use crate::ids::ConvoId;
use crate::mls;
use crate::store::members;
use crate::store::welcomes::{self, StoredWelcome, WelcomeSelector};
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetWelcome;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: ConvoId,
    #[serde(alias = "key_package_hash")]
    key_package_hash: Option<String>,
    #[serde(alias = "device_id")]
    device_id: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    convo_id: ConvoId,
    welcome: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_package_hash: Option<String>,
    /// Number of the group that it leads into.
    generation: i64,
    /// The epoch in which the caller joins.
    epoch: i64,
    /// The entries after this seq are of the group, as far as the caller sees them.
    seq: i64,
}

impl Endpoint for GetWelcome {
    const LEXICON: &'static str = include_str!("get_welcome.json");
    const KIND: Kind = Kind::Query;
    const ERRORS: &'static [Code] =
        &[Code::ConvoNotFound, Code::NotMember, Code::WelcomeNotFound, Code::WelcomeConsumed];

    type Input = Input;
    type Output = Output;

    fn convo(input: &mut Input) -> Option<&mut ConvoId> {
        Some(&mut input.convo_id)
    }

    fn bytes(found: &Output) -> usize {
        found.welcome.len()
    }

    async fn call(app: &App, caller: &Caller, input: Input) -> Result<Output, Error> {
        let key_package_hash = input.key_package_hash.as_deref().map(fields::key_package_hash).transpose()?;
        let device_id = input.device_id.map(fields::device_id).transpose()?;
        let reader = app.store.reader().await?;
        members::membership(&reader, &input.convo_id, &caller.did).await?;
        let which = WelcomeSelector { key_package_hash, epoch: None, device_id };
        match welcomes::find(&reader, &input.convo_id, &caller.did, &which).await? {
            Some(StoredWelcome::Available { welcome, key_package_hash, generation, epoch, seq, own_parts }) => {
                let own: Vec<&[u8]> = own_parts.iter().flatten().map(Vec::as_slice).collect();
                let welcome = if own.is_empty() { welcome } else { mls::restrict_welcome(welcome, &own) };
                Ok(Output {
                    convo_id: input.convo_id,
                    welcome: to_base64(&welcome),
                    key_package_hash: key_package_hash.map(|hash| hex::encode(&hash)),
                    generation,
                    epoch,
                    seq,
                })
            }
            Some(StoredWelcome::Consumed) => {
                Err(Code::WelcomeConsumed.because("you confirmed this Welcome, which deleted it"))
            }
            None | Some(StoredWelcome::Past) => {
                Err(Code::WelcomeNotFound.because("no Welcome is waiting for you here"))
            }
        }
    }
}
