//! getQuota: what the caller has used of its quotas of bytes, and a conversation of its own.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{Code, Error};
use crate::ids::ConvoId;
use crate::quotas::Usage;
use crate::store::members;
use crate::wire::datetime;
use crate::xrpc::{Caller, Endpoint, Kind};

pub struct GetQuota;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    #[serde(alias = "convo_id")]
    convo_id: Option<ConvoId>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Output {
    stored_bytes: Amount,
    blob_bytes: Amount,
    blob_uploads: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    convo_blob_bytes: Option<Amount>,
}

/// What was used, and the limit unless there is none.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    used: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resets_at: Option<At>,
}

#[derive(Serialize)]
struct At(#[serde(serialize_with = "datetime")] DateTime<Utc>);

impl Endpoint for GetQuota {
    const LEXICON: &'static str = include_str!("get_quota.json");
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
        let (uploads, convo_bytes) = reader.blob_usage(&caller.did, input.convo_id.as_ref()).await?;
        drop(reader);
        let now = app.clock.now();
        let windowed = |usage: Usage| Amount {
            used: usage.used,
            limit: usage.limit,
            resets_at: usage.resets_in.map(|left| At(now + TimeDelta::from_std(left).unwrap_or_default())),
        };
        let counted = |used: i64, most: u64| Amount {
            used: used.unsigned_abs(),
            limit: (most > 0).then_some(most),
            resets_at: None,
        };
        let quotas = &app.config.quotas;
        let [stored_bytes, blob_bytes] = app.quotas.usage(&caller.did).await?.map(windowed);
        Ok(Output {
            stored_bytes,
            blob_bytes,
            blob_uploads: counted(uploads, quotas.blob_uploads),
            convo_blob_bytes: input.convo_id.is_some().then(|| counted(convo_bytes, quotas.convo_blob_bytes)),
        })
    }
}
